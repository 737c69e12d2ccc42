"""Chunked computation of large intermediates, each chunk recomputed in the backward pass."""

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
    """Chunk sizes for operations with large intermediates; 0 processes the axis at once.

    So does a size that is at least as large as the axis. Chunk sizes do not affect random draws;
    they affect results only by rounding.

    Attributes:
        rows: Rows of the pair slab; MSA rows in operations on the MSA.
        samples: Diffusion samples that the diffusion module denoises at once.
    """

    rows: int = 0
    samples: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 0:
                raise ArgumentError(
                    f"{field.name}={getattr(self, field.name)} is negative; 0 takes all at once"
                )


ALL_AT_ONCE = Chunks()


def recomputed(function: Callable[..., Any], *args: Any) -> Any:
    """Return `function(*args)`; its intermediates are recomputed in the backward pass.

    Randomness is keyed, so that no generator state has to be saved for the recomputation. On an
    accelerator the recomputation runs in a thread of autograd, which receives the selection of
    backends that is in force in the calling thread.

    Args:
        function: Deterministic function of its arguments.
        *args: Arguments. Within a recomputed block, pass every tensor as an argument of its own: a
            tensor inside another argument, or bound to `function`, would stay in memory.
    """
    if not torch.is_grad_enabled():
        return function(*args)
    return torch.utils.checkpoint.checkpoint(
        carry_backends(function), *args, use_reentrant=False, preserve_rng_state=False
    )


def in_chunks(
    function: Callable[..., Any], size: int, *args: Any, axes: Sequence[int], out: int
) -> Any:
    """Return `function(*args)`, computed for `size` positions at a time and concatenated.

    Each chunk is recomputed separately in the backward pass, also within recomputed blocks, since
    the recomputation of a block saves its intermediates until the block is differentiated. A
    function that exchanges data with other ranks needs the same number of chunks on every rank.
    That holds for chunks of samples, but not for chunks of rows.

    Args:
        function: Function that is local to each position; returns a tensor or a tuple of tensors.
        size: Positions per chunk. If it is 0 or at least the size of the axis, `function` is called
            once, without recomputation.
        *args: Arguments, as for `recomputed`. The first ones are split.
        axes: Axis of the positions in each of the arguments that are split.
        out: Axis of the positions in every result.
    """
    split, unsplit = args[: len(axes)], args[len(axes) :]
    if not 0 < size < split[0].shape[axes[0]]:
        return function(*args)
    # Tensor.split rather than narrow: the gradient of all chunks is then one concatenation.
    parts = zip(*(x.split(size, axis) for x, axis in zip(split, axes, strict=True)), strict=True)
    results = [recomputed(function, *part, *unsplit) for part in parts]
    if isinstance(results[0], Tensor):
        return torch.cat(results, dim=out)
    return tuple(torch.cat(chunks, dim=out) for chunks in zip(*results, strict=True))
