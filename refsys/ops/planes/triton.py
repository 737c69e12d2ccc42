"""Sums over rows, in parts that are added up in their order."""

import torch
from torch import Tensor

from refsys.ops.triton_backend import launch, launch_options, padded_width, split, tiles
from refsys.ops.workspace import workspace

# Programs of `outer`: enough that no multiprocessor idles.
_PROGRAMS = 256
# So few sums are made by many programs, each of a few of them and of more planes at a time.
_FEW = 4096


def fold(planes: Tensor, out: Tensor) -> None:
    """Sums over the planes, in their order, into `out`.

    Args:
        planes: [batch, plane, ...] in float32, dense.
        out: [batch, ...], dense; any floating-point dtype.
    """
    batch, count = planes.shape[:2]
    each = out.numel() // batch
    options = launch_options("planes.fold", planes)
    if each < _FEW:
        narrow = min(32, options["BLOCK"])
        options["BLOCK_PLANES"] *= options["BLOCK"] // narrow
        options["BLOCK"] = narrow
    grid = tiles(each, options["BLOCK"]), batch
    launch("planes.fold", grid, planes, out, count, each, **options)


def outer(d: Tensor, y: Tensor, out: Tensor) -> None:
    """Σ over rows of d[row, o] y[row, c], the gradient of a linear layer's weight, into `out`.

    Args:
        d: [..., o], dense.
        y: [..., c], dense, dtype of `d`, as many rows.
        out: [o, c], dense; any floating-point dtype.
    """
    width_o, width_c = out.shape
    rows = y.numel() // width_c
    options = launch_options("planes.outer", y)
    chunks = tiles(width_o, options["BLOCK_OUT"])
    most = min(tiles(_PROGRAMS, chunks), 2 * y.numel() // out.numel())
    parts, each = split(tiles(rows, options["BLOCK_ROWS"]), max(1, most))
    planes = workspace("planes.outer", (1, parts, *out.shape), dtype=torch.float32, device=y.device)
    widths = {"WIDTH_OUT": width_o, "WIDTH": width_c, "BLOCK_WIDTH": padded_width(width_c)}
    launch("planes.outer", (parts * chunks,), d, y, planes, rows, each, **widths, **options)
    fold(planes, out.unsqueeze(0))
