"""What autograd keeps for the backward pass."""

from contextlib import contextmanager

import torch


@contextmanager
def saved(parameters=()):
    """Yields a list that the block fills with the storages kept, each once, parameters apart."""
    own = {id(parameter.untyped_storage()) for parameter in parameters}
    seen, kept = set(), []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if id(storage) not in own | seen:
            seen.add(id(storage))
            kept.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept
