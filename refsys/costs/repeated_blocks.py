"""Blocks of a differentiated stack that are not traced, because they repeat another one.

Of a stack of n equal blocks (`refsys.ops.rounds.equal_blocks`) the first two and the last two are
traced: 0, 1, n - 2, n - 1. Operators of block 1 are counted n - 3 times, for itself and for blocks
2 to n - 3. Memory is not proportional to depth: saved tensors and gradients accumulate, so that the
peak may lie anywhere. Allocations and releases of the blocks left out are therefore inserted into
the timeline, in forward between blocks 1 and n - 2, and in backward between n - 2 and 1.

The insertion rests on one assumption, that neighbouring blocks do the same, and it is checked:
events of blocks 1 and n - 2 are compared one by one. A release belongs to the block's own forward
or backward pass, to the output of the previous block or to the gradient of the next one; anything
else is an `UnequalBlocksError`, and the program is traced in full.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from refsys.costs.averaged_blocks import average_blocks
from refsys.costs.block_insertion import (
    POSITIONS,
    SECOND,
    TracedStack,
    UnequalBlocksError,
    insert_blocks,
)
from refsys.costs.storages import LiveStorages, Timeline


class RepeatedBlocks:
    """Observer of `equal_blocks` for a tracer whose storages are `memory`.

    Attributes:
        left_out: Blocks that were not traced, over all stacks.
        allocating: Whether tensors are allocated now that a tracer must not record.
    """

    def __init__(self, memory: LiveStorages) -> None:
        self.left_out = 0
        self.allocating = False
        self._memory = memory
        self._stacks: list[TracedStack] = []
        self._open = False
        # Autograd's sequence numbers at the positions of every stack, one after another.
        self._sequence: list[int] = []
        self._current: tuple[int, int] | None = None
        self._averaged: set[nn.Module] = set()

    def enter_stack(self, blocks: Sequence[nn.Module]) -> bool:
        """See `StackObserver`.

        Stacks inside of another one or of a recomputed function are traced in full, and so are
        those whose gradients have hooks, unless a `GradientAverage` with buckets of their own has
        registered them.
        """
        recomputes = torch._C._autograd._top_saved_tensors_default_hooks(False) is not None
        if self._open or recomputes or torch._C._current_autograd_node() is not None:
            return False
        if len({_signature(block) for block in blocks[1:-1]}) > 1:
            return False
        if blocks[0] not in self._averaged and not average_blocks(self, blocks):
            return False
        # A stack may run several times in a step, and its gradients are averaged once.
        self._averaged.add(blocks[0])
        self._stacks.append(TracedStack(blocks))
        self._open = True
        self.left_out += len(blocks) - 4
        return True

    def enter_block(self) -> None:
        """See `StackObserver`."""
        self._stacks[-1].forward.append(len(self._memory))
        self._sequence.append(torch.autograd._get_sequence_nr())

    def leave_stack(self) -> None:
        """See `StackObserver`."""
        self.enter_block()
        self._open = False

    def join(self, tensor: Tensor, left_out: Sequence[Tensor]) -> Tensor:
        """See `StackObserver`."""
        joined: Tensor = _Join.apply(self, tensor, *left_out)
        return joined

    def locate(self) -> None:
        """Find the block whose backward pass is running; called before each event and operator.

        Backward runs nodes in the reverse order of their creation, so that those of a block are
        contiguous. Nodes without a number in a stack (accumulation of gradients, nodes of a
        recomputation) belong to the block that ran last.
        """
        if not self._sequence:
            return
        node = torch._C._current_autograd_node()
        if node is None:
            return
        index = bisect_right(self._sequence, node._sequence_nr()) - 1
        stack, position = divmod(index, POSITIONS)
        if index < 0 or position == POSITIONS - 1 or self._current == (stack, position):
            return
        self._current = stack, position
        self._stacks[stack].backward.setdefault(position, len(self._memory))

    def times(self) -> int:
        """Return the number of blocks that the running backward pass stands for."""
        if self._current is None or torch._C._current_autograd_node() is None:
            return 1
        stack, position = self._current
        return self._stacks[stack].left_out + 1 if position == SECOND else 1

    def add_gradients(self) -> None:
        """Give parameters of the blocks left out gradients like those of block 1.

        Called once the backward pass is done.
        """
        for stack in self._stacks:
            template = list(stack.blocks[SECOND].parameters())
            for index, block in enumerate(stack.blocks[2:-2]):
                shared: dict[int, Tensor] = {}
                for like, parameter in zip(template, block.parameters(), strict=True):
                    if like.grad is not None and parameter.grad is None:
                        parameter.grad = self.gradient_like(like.grad, index, shared)

    def in_second_block(self) -> bool:
        """Return whether block 1 of a stack runs backward."""
        return self._current is not None and self._current[1] == SECOND

    def gradient_like(self, like: Tensor, index: int, shared: dict[int, Tensor]) -> Tensor:
        """Return `gradient` like that of a parameter, which may be sharded."""
        local = getattr(like, "_local_tensor", None)
        if local is None:
            return self.gradient(like, index, shared)
        part = self.gradient(local, index, shared)
        sharded: Any = like
        self.allocating = True
        whole: Tensor = type(sharded).from_local(
            part,
            sharded.device_mesh,
            sharded.placements,
            run_check=False,
            shape=like.shape,
            stride=like.stride(),
        )
        self.allocating = False
        return whole

    def gradient(self, like: Tensor, index: int, shared: dict[int, Tensor]) -> Tensor:
        """Return the gradient of a block left out that corresponds to one of a traced block.

        Args:
            like: Gradient of the traced block.
            index: Index of the block among those left out.
            shared: Storages of that block's gradients so far, by those of the traced block.
        """
        number = self._memory.number(like)
        assert number is not None, "a gradient is a tensor that the tracer has seen"
        self.allocating = True
        if number not in shared:
            size = like.untyped_storage().nbytes() // like.element_size()
            shared[number] = torch.empty(size, dtype=like.dtype, device=like.device)
            if any((index, number) in stack.gradients for stack in self._stacks):
                raise UnequalBlocksError("gradients of several tensors share a storage")
            copy = self._memory.copy(number)
            self._memory.stand_in(shared[number], copy)
            for stack in self._stacks:
                stack.gradients[index, number] = copy
        gradient = shared[number].as_strided(like.shape, like.stride(), like.storage_offset())
        self.allocating = False
        return gradient

    def complete(self, timeline: Timeline) -> Timeline:
        """Return the timeline with the events of the blocks left out.

        Raises:
            UnequalBlocksError: blocks that were taken for equal differ.
        """
        return insert_blocks(timeline, self._stacks)


class _Join(torch.autograd.Function):
    """Identity whose backward pass also creates the gradients of inputs of blocks left out."""

    @staticmethod
    def forward(ctx: Any, blocks: RepeatedBlocks, tensor: Tensor, *left_out: Tensor) -> Tensor:
        """Return the tensor as it is."""
        ctx.blocks, ctx.count = blocks, len(left_out)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient, and one like it for each block left out."""
        copies = (ctx.blocks.gradient(gradient, index, {}) for index in range(ctx.count))
        return None, gradient, *copies


def _signature(block: nn.Module) -> tuple[object, ...]:
    parameters = block.named_parameters()
    return (type(block), *((n, p.shape, p.dtype, p.requires_grad) for n, p in parameters))
