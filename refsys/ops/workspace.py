"""Scratch memory inside an operator goes through one call, so that everyone can see it.

Tensors that an operator allocates inside a custom kernel are invisible to dispatch modes. Asking
for them here shows them to whoever watches: memory guards in the tests, the live-storage tracker,
simulation. A kernel's fake implementation calls `declare` with the same name and size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from refsys.ops.scope import Watchers


class Scratch(NamedTuple):
    """One scratch buffer: whose it is, and how large."""

    name: str
    nbytes: int


_watchers = Watchers[Scratch]()


def workspace(
    name: str, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """An uninitialized scratch tensor, seen by every watcher. It lives as long as its references.

    Args:
        name: Operator and purpose, as in ``triangle_attention.bias_gradient_planes``.
        shape: Its shape.
        dtype: Its dtype.
        device: Where it lives.
    """
    tensor = torch.empty(tuple(shape), dtype=dtype, device=device)
    declare(name, tensor.numel() * tensor.element_size())
    return tensor


def declare(name: str, nbytes: int) -> None:
    """Says that an operator would use `nbytes` of scratch: the fake twin of `workspace`."""
    _watchers.tell(Scratch(name, nbytes))


@contextmanager
def watch(watcher: Callable[[Scratch], None]) -> Iterator[None]:
    """Calls `watcher` for each scratch buffer asked for or declared inside the block."""
    with _watchers.added(watcher):
        yield
