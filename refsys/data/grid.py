"""Uniform grid over a structure's tokens, for nearest-neighbour queries without a full scan."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Edge of a cell, ångström: a crop of 384 tokens has a radius of about three cells.
CELL = 8.0
# Bits for the cell number along one axis.
_BITS = 16
_FIRST_REACH = 2
# Factor on the distance to a box's wall, so that rounding cannot make it too large.
_SAFETY = 1 - 1e-5


def grid_columns(positions: NDArray[np.float32], tokens: NDArray[np.int64]) -> dict[str, Any]:
    """Return the grid columns of a structure record.

    Args:
        positions: [k, 3] centre positions of the tokens, ångström.
        tokens: [k] token numbers, ascending.

    Returns:
        [k], sorted by cell and then by token: ``grid_token``, ``grid_position`` and ``grid_cell``
        (the cell number, which counts along z first); ``grid_origin`` [3], the corner of cell 0.
    """
    origin = positions.min(axis=0) if len(positions) else np.zeros(3, np.float32)
    cells = _cell_numbers(_cell_indices(positions, origin))
    order = np.argsort(cells, kind="stable")
    return {
        "grid_token": tokens[order].astype(np.int32),
        "grid_position": positions[order],
        "grid_cell": cells[order],
        "grid_origin": origin.astype(np.float32),
    }


def nearest(
    grid: Mapping[str, NDArray[Any]], point: NDArray[np.float32], count: int
) -> NDArray[np.int64]:
    """Return the `count` tokens nearest to a point, ascending; all tokens if they are fewer.

    Ties go to the lower token number.

    Args:
        grid: Columns of a structure record, see `grid_columns`.
        point: [3], ångström.
        count: Number of tokens.
    """
    center = _cell_indices(point[None], grid["grid_origin"])[0]
    count_modelled = len(grid["grid_token"])
    inside, reach = np.empty(0, np.int64), _FIRST_REACH
    while len(inside) < min(count, count_modelled):
        # A box with more columns of cells than there are tokens costs more than a full scan.
        near = (2 * reach + 1) ** 2 < count_modelled
        rows = _within(grid["grid_cell"], center, reach) if near else np.arange(count_modelled)
        tokens = np.asarray(grid["grid_token"])[rows].astype(np.int64)
        distances = np.square(np.asarray(grid["grid_position"])[rows] - point).sum(axis=1)
        # The bits of non-negative floats sort like the floats; the token number breaks ties.
        keys = distances.astype(np.float32).view(np.int32).astype(np.int64) << 32 | tokens
        # Tokens outside the box may be nearer than those beyond its inscribed sphere.
        safe_radius_squared = np.float32(reach * CELL * _SAFETY) ** 2
        inside = keys if len(rows) == count_modelled else keys[distances < safe_radius_squared]
        reach += max(1, reach // 2)
    if len(inside) > count:
        inside = np.partition(inside, count - 1)[:count]
    return np.sort(inside & 0xFFFFFFFF)


def _cell_indices(positions: NDArray[np.float32], origin: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the cell indices [k, 3] along each axis."""
    cells: NDArray[np.int64] = np.floor((positions - origin) / CELL).astype(np.int64)
    return cells


def _cell_numbers(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    numbers: NDArray[np.int64] = (
        (cells[..., 0] << 2 * _BITS) + (cells[..., 1] << _BITS) + cells[..., 2]
    )
    return numbers


def _within(cells: NDArray[np.int64], center: NDArray[np.int64], reach: int) -> NDArray[np.int64]:
    """Return the rows whose cells are at most `reach` cells from the centre along each axis."""
    low, high = np.maximum(center - reach, 0), center + reach
    x, y = (np.arange(low[axis], high[axis] + 1) for axis in (0, 1))
    columns = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)

    def bound(z: int) -> NDArray[np.int64]:
        return _cell_numbers(np.concatenate([columns, np.full((len(columns), 1), z)], axis=1))

    starts = np.searchsorted(cells, bound(int(low[2])), side="left")
    ends = np.searchsorted(cells, bound(int(high[2])), side="right")
    counts = ends - starts
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(int(counts.sum()))
