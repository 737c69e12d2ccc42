"""Checkpoints of blocks in host memory.

A block that is recomputed in the backward pass saves its arguments. Large ones are copied to the
host while the block runs, and come back for its backward pass, during that of the block after it:
at most two blocks' arguments are on the device at a time.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from refsys.model.chunks import recomputed
from refsys.ops.host_memory import Copy, to_device, to_host

# Smaller tensors stay on the device.
LEAST_BYTES = 2**20


class Offload:
    """Checkpoints of the blocks of one forward pass, in the order of the blocks."""

    def __init__(self) -> None:
        self._last: Callable[[], _Recomputed | None] = _no_block

    def run(self, block: Callable[..., Any], *args: Any, shared: int) -> Any:
        """Return `recomputed(block, *args)`, whose large arguments wait on the host.

        Within another recomputed function nothing is moved: its arguments last for one block.

        Args:
            block: Deterministic function of its arguments.
            *args: Arguments, as for `recomputed`.
            shared: Number of arguments, the last ones, that stay on the device.
        """
        nested = torch._C._autograd._top_saved_tensors_default_hooks(False) is not None
        if nested or not torch.is_grad_enabled():
            return recomputed(block, *args)
        count = len(args) - shared
        moved = [_Argument(arg) if _is_movable(arg) else arg for arg in args[:count]]
        arguments = [*moved, *args[count:]]
        call = _Recomputed(block, arguments, self._last)
        self._last = weakref.ref(call)
        result = recomputed(call, *arguments)
        for argument in call.moved:
            argument.leave()
        return result


def _is_movable(x: object) -> bool:
    """Return whether an argument is large, and the only user of its memory."""
    if not isinstance(x, Tensor) or not x.requires_grad:
        return False
    nbytes = x.numel() * x.element_size()
    return nbytes >= LEAST_BYTES and nbytes == x.untyped_storage().nbytes()


class _Recomputed:
    """Block whose arguments are on the device when it is called."""

    __slots__ = ("__weakref__", "_block", "_previous", "moved")

    def __init__(
        self,
        block: Callable[..., Any],
        arguments: Sequence[Any],
        previous: "Callable[[], _Recomputed | None]",
    ) -> None:
        self._block, self._previous = block, previous
        self.moved = [argument for argument in arguments if isinstance(argument, _Argument)]

    def __call__(self, *args: Any) -> Any:
        returning = any(argument.is_away for argument in self.moved)
        values = [arg.take() if isinstance(arg, _Argument) else arg for arg in args]
        previous = self._previous()
        if returning and previous is not None:
            for argument in previous.moved:
                argument.fetch()
        return self._block(*values)


class _Argument:
    """Argument of a block: the tensor until the block has run, its copy on the host from then."""

    __slots__ = ("_arriving", "_device", "_host", "_tensor")

    def __init__(self, x: Tensor) -> None:
        self._tensor: Tensor | None = x
        self._device = x.device
        self._host = to_host(x)
        self._arriving: Copy | None = None

    @property
    def is_away(self) -> bool:
        """Return whether the tensor has left the device."""
        return self._tensor is None

    def leave(self) -> None:
        """Release the tensor on the device."""
        self._host.wait()
        self._tensor = None

    def fetch(self) -> None:
        """Start to copy the tensor back to the device."""
        if self._arriving is None and self.is_away:
            self._arriving = to_device(self._host.tensor, self._device)

    def take(self) -> Tensor:
        """Return the tensor on the device, to the caller alone."""
        if self._tensor is not None:
            return self._tensor
        self.fetch()
        arriving, self._arriving = self._arriving, None
        assert arriving is not None, "fetch starts the copy of a tensor that is away"
        return arriving.wait().requires_grad_()


def _no_block() -> None:
    """Stand in for the block before the first."""
