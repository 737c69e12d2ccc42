"""Scratch memory of operators.

Tensors that an operator allocates inside a custom kernel are invisible to dispatch modes. Asking
for them here reports them to callbacks: memory guards in the tests, the live-storage tracker,
simulation. A kernel's fake implementation calls `declare` with the same name and size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from refsys.ops.scope import current, override


class Scratch(NamedTuple):
    """One scratch buffer: operator and purpose, and size in bytes."""

    name: str
    nbytes: int


def workspace(
    name: str, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return an uninitialized scratch tensor and report it; it lives as long as its references.

    Args:
        name: Operator and purpose, as in ``triangle_attention.planes``.
        shape: Its shape.
        dtype: Its dtype.
        device: Its device.
    """
    tensor = torch.empty(tuple(shape), dtype=dtype, device=device)
    declare(name, tensor.numel() * tensor.element_size())
    return tensor


def declare(name: str, nbytes: int) -> None:
    """Report that an operator would use `nbytes` of scratch: the fake twin of `workspace`."""
    scratch = Scratch(name, nbytes)
    for callback in current().scratch_callbacks:
        callback(scratch)


@contextmanager
def watch(callback: Callable[[Scratch], None]) -> Iterator[None]:
    """Call `callback` for each scratch buffer requested or declared inside the block."""
    with override(scratch_callbacks=(callback,)):
        yield
