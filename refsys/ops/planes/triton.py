"""Sums over rows in partial sums, which are added up in a fixed order."""

from typing import NamedTuple

import torch
from torch import Tensor

from refsys.ops.specialization import common_unit, encoded
from refsys.ops.triton_backend import launch, launch_options, padded_width, split, tiles
from refsys.ops.workspace import workspace

# Programs of `outer`: enough to occupy every multiprocessor.
_PROGRAMS = 256
# Elements of a partial sum that are loaded at once.
_VECTOR = 4
# Reductions of one launch of `reduce`; most launches have no more.
_SLOTS = 3


class PartialSums(NamedTuple):
    """Partial sums, and the tensor that their total is written to.

    Attributes:
        parts: [batch, part, ...] in float32, dense.
        out: [batch, ...], dense; any floating-point dtype.
    """

    parts: Tensor
    out: Tensor


def reduce(*reductions: PartialSums) -> None:
    """Add up the parts of each reduction, in their order; all in one launch, if there are any."""
    if not reductions:
        return
    options = launch_options("planes.fold", reductions[0].parts)
    sizes = [sums.out.numel() // sums.out.shape[0] for sums in reductions]
    starts = [0]
    for sums, size in zip(reductions, sizes, strict=True):
        starts.append(starts[-1] + tiles(size, options["BLOCK"]) * sums.out.shape[0])
    unit = common_unit(sizes, _VECTOR)
    # Empty slots have no programs; they save compiling a kernel for each number of reductions.
    empty = max(0, _SLOTS - len(reductions))
    slots = *reductions, *reductions[:1] * empty
    launch(
        "planes.fold",
        (starts[-1],),
        tuple(slot.parts for slot in slots),
        tuple(slot.out for slot in slots),
        encoded(slot.parts.shape[1] for slot in slots),
        encoded(size // unit for size in sizes + sizes[:1] * empty),
        encoded(starts + starts[-1:] * empty),
        JOBS=len(slots),
        UNIT=unit,
        **options,
    )


def outer(
    d: Tensor,
    y: Tensor,
    out: Tensor,
    sums: Tensor | None = None,
    *,
    parts: int | None = None,
) -> list[PartialSums]:
    """Σ over rows of d[row, o] y[row, c], the gradient of a linear layer's weight, in parts.

    Args:
        d: [..., o], dense.
        y: [..., c], dense, dtype of `d`, as many rows.
        out: [o, c], dense; any floating-point dtype.
        sums: [b], dense, for Σ d[row, o] of the first b, the gradient of a bias; None for none.
        parts: Largest number of parts; None derives it from the sizes. A single one goes into `out`
            if that is in float32.

    Returns:
        Reductions that are left to `reduce`.
    """
    width_out, width = out.shape
    rows = y.numel() // width
    options = launch_options("planes.outer", y)
    options["BLOCK_WIDTH"] = min(options["BLOCK_WIDTH"], padded_width(width))
    grid = tiles(width_out, options["BLOCK_OUT"]), tiles(width, options["BLOCK_WIDTH"])
    most = parts or min(tiles(_PROGRAMS, grid[0] * grid[1]), y.numel() // out.numel())
    count, tiles_per_part = split(tiles(rows, options["BLOCK_ROWS"]), max(1, most))
    targets = [out] if sums is None else [out, sums]
    partials = [_partials(target, count, y) for target in targets]
    launch(
        "planes.outer",
        (count * grid[0], grid[1]),
        d,
        y,
        partials[0],
        partials[-1],
        rows,
        tiles_per_part,
        width_out,
        width,
        0 if sums is None else sums.numel(),
        SUMS=sums is not None,
        EVEN=width_out % options["BLOCK_OUT"] == 0 and width % options["BLOCK_WIDTH"] == 0,
        **options,
    )
    return [
        PartialSums(partial, target.unsqueeze(0))
        for partial, target in zip(partials, targets, strict=True)
        if partial is not target
    ]


def _partials(target: Tensor, parts: int, like: Tensor) -> Tensor:
    """Return scratch for the parts of a sum, or the target itself if it can take a single part."""
    if parts == 1 and target.dtype == torch.float32:
        return target
    shape = 1, parts, *target.shape
    return workspace("planes.outer", shape, dtype=torch.float32, device=like.device)
