"""Chunked computation of large intermediates, each chunk recomputed in the backward pass."""

from collections.abc import Callable, Iterator, Sequence
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
        rows: Rows of the pair slab; in operations on the MSA, as many MSA rows for each rank.
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
    function: Callable[..., Any],
    size: int,
    *args: Any,
    axes: Sequence[int],
    out: int,
    in_place: bool = False,
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
        in_place: Whether chunks are written to a tensor for all of them, so that one is in memory
            at a time; without gradients only.
    """
    split, unsplit = args[: len(axes)], args[len(axes) :]
    if not 0 < size < split[0].shape[axes[0]]:
        return function(*args)
    # Tensor.split rather than narrow: the gradient of all chunks is then one concatenation.
    parts = zip(*(x.split(size, axis) for x, axis in zip(split, axes, strict=True)), strict=True)
    if in_place:
        count = split[0].shape[axes[0]]
        return _assembled((function(*part, *unsplit) for part in parts), count, out)
    results = [recomputed(function, *part, *unsplit) for part in parts]
    if isinstance(results[0], Tensor):
        return torch.cat(results, dim=out)
    return tuple(torch.cat(chunks, dim=out) for chunks in zip(*results, strict=True))


def _assembled(results: Iterator[Any], count: int, axis: int) -> Any:
    """Return the concatenation of tensors, or of tuples of them, with one of them in memory.

    Args:
        results: Results of successive chunks.
        count: Size of the axis in the concatenation.
        axis: Axis along which they are concatenated.
    """
    wholes: list[Tensor] = []
    first, is_tuple = 0, False
    for result in results:
        is_tuple = not isinstance(result, Tensor)
        chunks = result if is_tuple else (result,)
        if not wholes:
            wholes = [chunk.new_empty(_resized(chunk, axis, count)) for chunk in chunks]
        size = chunks[0].shape[axis]
        for whole, chunk in zip(wholes, chunks, strict=True):
            whole.narrow(axis, first, size).copy_(chunk)
        first += size
        del result, chunks
    return tuple(wholes) if is_tuple else wholes[0]


def over_input(
    function: Callable[..., Tensor], size: int, x: Tensor, *args: Any, axes: Sequence[int]
) -> Tensor:
    """Write `function(x, *args)` over `x`, `size` positions at a time; without gradients.

    Args:
        function: See `in_chunks`; its result has the shape of `x`.
        size: Positions per chunk.
        x: First argument, and the result.
        *args: Further arguments.
        axes: Axis of the positions in `x` and in those of the arguments that are split.
    """
    split, unsplit = args[: len(axes) - 1], args[len(axes) - 1 :]
    tensors = zip((x, *split), axes, strict=True)
    for target, *part in zip(*(t.split(size, axis) for t, axis in tensors), strict=True):
        target.copy_(function(target, *part, *unsplit))
    return x


def _resized(x: Tensor, axis: int, size: int) -> tuple[int, ...]:
    shape = list(x.shape)
    shape[axis] = size
    return tuple(shape)
