"""Averages of gradients over ranks, where a trace leaves out blocks of a stack.

Buckets of gradients (`refsys.parallel.data_parallel`) are sent while backward runs, and a large
block has buckets of its own. Those of block n - 2 show which of two cases applies to the stack:

- They are sent before block 1 runs backward. Then messages of block 1, sent in its own backward
  pass, stand for those of the blocks left out, and copies of them hold memory until the averages
  are complete.
- They wait for gradients that are computed later, as of projections that are applied for all blocks
  at once. Then each block left out sends its own buckets; its gradients are given to it when block
  1 computes the gradients that correspond to them.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor, nn

from refsys.costs.block_insertion import SECOND, UnequalBlocksError
from refsys.parallel.data_parallel import Bucket, GradientAverage


class Backward(Protocol):
    """Backward pass of a stack, four blocks of which are run."""

    def in_second_block(self) -> bool:
        """Return whether block 1 runs backward."""

    def gradient_like(self, like: Tensor, index: int, shared: dict[int, Tensor]) -> Tensor:
        """Return a gradient of a block left out that corresponds to one of block 1."""


class AveragedBlocks:
    """Buckets of one stack in one step."""

    def __init__(
        self, backward: Backward, blocks: Sequence[nn.Module], buckets: Sequence[list[Bucket]]
    ) -> None:
        """Begin a stack.

        Args:
            backward: Backward pass of the stack.
            blocks: All of its blocks.
            buckets: Buckets of each block.
        """
        self._backward = backward
        self._left_out = len(blocks) - 4
        self._second, *left_out, self._second_last = buckets[1:-1]
        self._absent = [bucket for block in left_out for bucket in block]
        peers = zip(*(block.parameters() for block in blocks[2:-2]), strict=True)
        self._peers = dict(zip(blocks[SECOND].parameters(), peers, strict=True))
        self._shared: list[dict[int, Tensor]] = [{} for _ in range(self._left_out)]
        self._bucket_of = {p: bucket for bucket in self._absent for p in bucket.parameters}
        self._is_represented: bool | None = None

    def on_gradient(self, parameter: Tensor) -> None:
        """Account for the gradients that correspond to one that is computed."""
        assert isinstance(parameter, nn.Parameter)
        if parameter not in self._peers or not self._backward.in_second_block():
            return
        if self._is_represented is None:
            self._is_represented = all(bucket.sent for bucket in self._second_last)
            self._begin()
        if self._is_represented:
            return
        assert parameter.grad is not None, "called once the gradient is computed"
        for index, peer in enumerate(self._peers[parameter]):
            peer.grad = self._backward.gradient_like(parameter.grad, index, self._shared[index])
            self._bucket_of[peer].missing -= 1

    def _begin(self) -> None:
        if self._is_represented:
            for bucket in self._absent:
                bucket.missing = 0
            for bucket in self._second:
                bucket.copies = self._copies
        else:
            for bucket in (*self._second_last, *self._absent, *self._second):
                bucket.copies = self._no_copies

    def _copies(self, message: Tensor) -> list[Tensor]:
        if not self._backward.in_second_block():
            raise UnequalBlocksError("gradients of a block are sent while another block runs")
        return [self._backward.gradient_like(message, i, {}) for i in range(self._left_out)]

    def _no_copies(self, _message: Tensor) -> list[Tensor]:
        if self._backward.in_second_block():
            raise UnequalBlocksError("gradients of a block wait for another block's")
        return []


def average_blocks(backward: Backward, blocks: Sequence[nn.Module]) -> bool:
    """Account for the averages of a stack's gradients; return False if that cannot be done.

    It cannot if anything else has hooks on parameters, or if buckets do not follow blocks.
    """
    averages = _averages(blocks)
    if averages is None:
        return False
    watched: list[tuple[GradientAverage, Callable[[Tensor], None]]] = []
    for average in averages:
        buckets = [average.buckets_of(block.parameters()) for block in blocks]
        followed = [block for block in buckets if block is not None]
        if len(followed) < len(blocks):
            return False
        watched.append((average, AveragedBlocks(backward, blocks, followed).on_gradient))
    for average, on_gradient in watched:
        average.watch(on_gradient)
    return True


def _averages(blocks: Sequence[nn.Module]) -> set[GradientAverage] | None:
    """Return the averages that hooks of parameters serve; None if others have hooks."""
    hooks = [
        hook
        for block in blocks
        for parameter in block.parameters()
        for hook in (getattr(parameter, "_post_accumulate_grad_hooks", None) or {}).values()
    ]
    owners = {getattr(hook, "__self__", None) for hook in hooks}
    averages = {owner for owner in owners if isinstance(owner, GradientAverage)}
    return averages if averages == owners else None
