"""Storages that autograd saves for the backward pass."""

from contextlib import contextmanager

import torch


@contextmanager
def saved(parameters=()):
    """Yield a list that the block fills with saved storages, each once, without parameters."""
    parameter_ids = {id(parameter.untyped_storage()) for parameter in parameters}
    saved_ids, storages = set(), []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if id(storage) not in parameter_ids | saved_ids:
            saved_ids.add(id(storage))
            storages.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield storages
