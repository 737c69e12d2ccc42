"""Sums over rows, in parts that are added up in their order."""

from typing import NamedTuple

import torch
from torch import Tensor

from refsys.ops.specialization import common_unit, encoded
from refsys.ops.triton_backend import launch, launch_options, padded_width, split, tiles
from refsys.ops.workspace import workspace

# Programs of `outer`: enough that no multiprocessor idles.
_PROGRAMS = 256
# Elements of a plane that are loaded at once.
_VECTOR = 4
# Jobs of one launch of `fold`, most of which have no more.
_SLOTS = 3


class Planes(NamedTuple):
    """Parts of a sum, and where the sum goes.

    Attributes:
        parts: [batch, part, ...] in float32, dense.
        out: [batch, ...], dense; any floating-point dtype.
    """

    parts: Tensor
    out: Tensor


def fold(*jobs: Planes) -> None:
    """Sums the parts of each job, in their order, into its output; all in one launch, if any."""
    if not jobs:
        return
    options = launch_options("planes.fold", jobs[0].parts)
    sizes = [job.out.numel() // job.out.shape[0] for job in jobs]
    starts = [0]
    for job, size in zip(jobs, sizes, strict=True):
        starts.append(starts[-1] + tiles(size, options["BLOCK"]) * job.out.shape[0])
    unit = common_unit(sizes, _VECTOR)
    # Slots without a job have no programs; they spare a kernel for each number of jobs.
    empty = max(0, _SLOTS - len(jobs))
    slots = *jobs, *jobs[:1] * empty
    launch(
        "planes.fold",
        (starts[-1],),
        *(tuple(slot.parts for slot in slots), tuple(slot.out for slot in slots)),
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
) -> list[Planes]:
    """Σ over rows of d[row, o] y[row, c], the gradient of a linear layer's weight, in parts.

    Args:
        d: [..., o], dense.
        y: [..., c], dense, dtype of `d`, as many rows.
        out: [o, c], dense; any floating-point dtype.
        sums: [b], dense, for Σ d[row, o] of the first b, the gradient of a bias; None for none.
        parts: How many there are at most; None leaves it to the sizes. A single one goes into `out`
            if that is in float32.

    Returns:
        What is left to `fold`.
    """
    width_out, width = out.shape
    rows = y.numel() // width
    options = launch_options("planes.outer", y)
    options["BLOCK_WIDTH"] = min(options["BLOCK_WIDTH"], padded_width(width))
    grid = tiles(width_out, options["BLOCK_OUT"]), tiles(width, options["BLOCK_WIDTH"])
    most = parts or min(tiles(_PROGRAMS, grid[0] * grid[1]), y.numel() // out.numel())
    count, each = split(tiles(rows, options["BLOCK_ROWS"]), max(1, most))
    wanted = [out] if sums is None else [out, sums]
    made = [_parts(target, count, y) for target in wanted]
    launch(
        "planes.outer",
        (count * grid[0], grid[1]),
        *(d, y, made[0], made[-1], rows, each),
        *(width_out, width, 0 if sums is None else sums.numel()),
        SUMS=sums is not None,
        EVEN=width_out % options["BLOCK_OUT"] == 0 and width % options["BLOCK_WIDTH"] == 0,
        **options,
    )
    return [
        Planes(planes, target.unsqueeze(0))
        for planes, target in zip(made, wanted, strict=True)
        if planes is not target
    ]


def _parts(target: Tensor, parts: int, like: Tensor) -> Tensor:
    """Planes for the parts of a sum; where there is one part, what it is summed into."""
    if parts == 1 and target.dtype == torch.float32:
        return target
    shape = 1, parts, *target.shape
    return workspace("planes.outer", shape, dtype=torch.float32, device=like.device)
