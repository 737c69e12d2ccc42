"""Loops whose rounds all cost the same, shortened where only costs are wanted.

Sampling steps and recycling iterations are `equal_rounds`, the blocks of a stack are
`equal_blocks`. Inside `shortened` a few rounds stand for all.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from refsys.ops.scope import current, override

T = TypeVar("T")

# Stacks of fewer blocks are not shortened: of a differentiated one, four blocks are run.
LEAST_BLOCKS = 5


class StackObserver(Protocol):
    """Tracer that accounts for the blocks that a differentiated stack leaves out."""

    def enter_stack(self, blocks: Sequence[nn.Module]) -> bool:
        """Begin a stack; return whether it may be shortened."""

    def enter_block(self) -> None:
        """Begin the next of the four blocks that are run."""

    def leave_stack(self) -> None:
        """End the stack."""

    def join(self, tensor: Tensor, left_out: Sequence[Tensor]) -> Tensor:
        """Return `tensor`, through which those that blocks left out would read get gradients."""


def equal_rounds(rounds: Sequence[T]) -> Iterator[T]:
    """Yield the rounds of a loop; all but the first start the same operators on the same shapes.

    Inside `shortened` two are yielded: the second stands for itself and for those left out.
    """
    if not current().shorten_rounds:
        yield from rounds
        return
    yield from rounds[:1]
    with multiplied(len(rounds) - 1):
        yield from rounds[1:2]


def equal_blocks(stack: Iterable[T]) -> Iterator[T]:
    """Yield the blocks of a stack, each of which works on the output of the one before.

    All but the first and the last start the same operators on the same shapes. Inside `shortened`,
    three are yielded where gradients are off: the second stands for those left out. Where they are
    on, the first two and the last two are yielded, and a tracer is needed that accounts for saved
    tensors and gradients (see `shortened`).

    Args:
        stack: Modules, or tuples of a module and the tensors that it alone reads.
    """
    blocks = list(stack)
    modules: list[Any] = [block[0] if isinstance(block, tuple) else block for block in blocks]
    shorten = current().shorten_rounds and len(blocks) >= LEAST_BLOCKS
    if not shorten or _stays_gathered(modules[0]):
        yield from blocks
        return
    if not torch.is_grad_enabled():
        yield blocks[0]
        with multiplied(len(blocks) - 2):
            yield blocks[1]
        yield blocks[-1]
        return
    observer: StackObserver | None = current().stack_observer
    if observer is None or not observer.enter_stack(modules):
        yield from blocks
        return
    for index, repeats in ((0, 1), (1, len(blocks) - 3), (-2, 1), (-1, 1)):
        observer.enter_block()
        block: Any = blocks[index]
        if index == -2 and isinstance(block, tuple):
            columns = list(zip(*blocks[2:-2], strict=True))
            joined = (_joined(observer, *pair) for pair in zip(block, columns, strict=True))
            block = tuple(joined)
        with multiplied(repeats):
            yield block
    observer.leave_stack()


def _stays_gathered(block: Any) -> bool:
    """Return whether the first run of a block leaves its gathered parameters in memory.

    A block that has run before then costs less than one that was left out.
    """
    # Sharded blocks alone have this method. Their class is not imported: with it, torch's profiler
    # crashed in processes that communicate by gloo.
    return bool(getattr(block, "repeated", False)) and hasattr(block, "unshard")


def _joined(observer: StackObserver, value: Any, left_out: Sequence[Any]) -> Any:
    if isinstance(value, Tensor) and value.requires_grad:
        return observer.join(value, left_out)
    return value


@contextmanager
def shortened(observer: StackObserver | None = None) -> Iterator[None]:
    """Leave out equal rounds inside the block, where only shapes are computed.

    Args:
        observer: Tracer that accounts for blocks left out where gradients are on; without one all
            blocks are run there.
    """
    with override(shorten_rounds=True, stack_observer=observer):
        yield


def times() -> int:
    """Return the number of rounds that the running one stands for."""
    return current().repetitions


@contextmanager
def multiplied(repeats: int) -> Iterator[None]:
    """Let what runs inside the block stand for `repeats` runs."""
    with override(repetitions=times() * max(repeats, 0)):
        yield
