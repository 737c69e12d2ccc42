"""Large intermediates a part at a time, each part computed again where the gradient needs it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor

from refsys.errors import ArgumentError
from refsys.ops.backend import carry_backends


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunks:
    """How much is processed at once where intermediates are large; 0 is all of it.

    A size that the axis does not exceed is all of it, too. Sizes change no draw, and results by
    rounding alone.

    Attributes:
        rows: Rows of the pair slab; alignment rows where there are no pairs.
        samples: Noised copies that the diffusion module denoises in training.
    """

    rows: int = 0
    samples: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 0:
                raise ArgumentError(
                    f"{field.name}={getattr(self, field.name)} is less than 0, which is all at once"
                )


ALL_AT_ONCE = Chunks()


def recomputed(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)`, whose intermediates are not kept but made again in the backward pass.

    Randomness is keyed, so that no generator state has to be saved for the recomputation. On an
    accelerator that runs in a thread of autograd's, to which the backends chosen in this one are
    carried.

    Args:
        function: Makes the same of the same arguments each time.
        *args: Its arguments. Within a recomputed block a tensor has to be an argument itself: one
            inside another argument, or bound to `function`, would be kept alive.
    """
    if not torch.is_grad_enabled():
        return function(*args)
    return torch.utils.checkpoint.checkpoint(
        carry_backends(function), *args, use_reentrant=False, preserve_rng_state=False
    )


def in_chunks(
    function: Callable[..., Any], size: int, *args: Any, axes: Sequence[int], out: int
) -> Any:
    """`function(*args)` of `size` positions at a time, the results concatenated.

    Each part is recomputed in the backward pass by itself, within recomputed blocks too: such a
    block keeps what it makes until it is differentiated. A function that exchanges data with other
    ranks needs the same number of parts on each: samples may, rows must not.

    Args:
        function: Local to each position. Returns a tensor or a tuple of tensors.
        size: Positions at once; with 0, or no fewer than there are, `function` is simply called.
        *args: Its arguments, as for `recomputed`; the first ones are cut.
        axes: The axis of those first arguments that holds the positions.
        out: The axis of every result that does.
    """
    cut, whole = args[: len(axes)], args[len(axes) :]
    if not 0 < size < cut[0].shape[axes[0]]:
        return function(*args)
    # Split and not narrowed: the gradient of all parts is one concatenation.
    parts = zip(*(x.split(size, axis) for x, axis in zip(cut, axes, strict=True)), strict=True)
    found = [recomputed(function, *part, *whole) for part in parts]
    if isinstance(found[0], Tensor):
        return torch.cat(found, dim=out)
    return tuple(torch.cat(results, dim=out) for results in zip(*found, strict=True))
