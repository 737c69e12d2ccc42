"""Guard against tensors of all pairs of tokens."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PairGuard(TorchDispatchMode):
    """Record tensors with two token axes that exceed a number of elements."""

    def __init__(self, token_sizes, most):
        super().__init__()
        self.token_sizes, self.most, self.found = token_sizes, most, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if not isinstance(tensor, torch.Tensor) or tensor.numel() <= self.most:
                continue
            if sum(size in self.token_sizes for size in tensor.shape) >= 2:
                self.found.add((str(func), tuple(tensor.shape)))
        return out
