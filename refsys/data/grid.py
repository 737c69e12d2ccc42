"""A grid over a structure's tokens: the nearest ones are found without asking all of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Ångström: a crop of 384 tokens has a radius of three cells or so.
CELL = 8.0
# Cells of an axis are counted in so many bits.
_BITS = 16
_FIRST_REACH = 2
# Distances to a cell's wall, less what rounding may have added.
_SAFETY = 1 - 1e-5


def grid_columns(positions: NDArray[np.float32], tokens: NDArray[np.int64]) -> dict[str, Any]:
    """The columns of a grid.

    Args:
        positions: [k, 3] of what is in it, ångström.
        tokens: [k] their tokens, ascending.

    Returns:
        [k], sorted by cell and then by token: ``grid_token``, ``grid_position`` and ``grid_cell``,
        a number that counts cells along z first; ``grid_origin`` [3], the corner of cell 0.
    """
    origin = positions.min(axis=0) if len(positions) else np.zeros(3, np.float32)
    cells = _numbered(_cells(positions, origin))
    order = np.argsort(cells, kind="stable")
    return {
        "grid_token": tokens[order].astype(np.int32),
        "grid_position": positions[order],
        "grid_cell": cells[order],
        "grid_origin": origin.astype(np.float32),
    }


def nearest(
    grid: Mapping[str, NDArray[Any]], place: NDArray[np.float32], count: int
) -> NDArray[np.int64]:
    """The `count` tokens nearest to a place, ascending; all if they are fewer. Ties: the earlier.

    Args:
        grid: A structure's columns.
        place: [3], ångström.
        count: How many.
    """
    middle = _cells(place[None], grid["grid_origin"])[0]
    known = len(grid["grid_token"])
    inside, reach = np.empty(0, np.int64), _FIRST_REACH
    while len(inside) < min(count, known):
        # Where tokens are scattered, a box has more cells than there are tokens.
        near = (2 * reach + 1) ** 2 < known
        rows = _within(grid["grid_cell"], middle, reach) if near else np.arange(known)
        tokens = np.asarray(grid["grid_token"])[rows].astype(np.int64)
        distances = np.square(np.asarray(grid["grid_position"])[rows] - place).sum(axis=1)
        # Floats that are not negative are in the order of their bits; the token decides ties.
        keys = distances.astype(np.float32).view(np.int32).astype(np.int64) << 32 | tokens
        # Beyond a sphere in the box there may be nearer ones outside the box.
        sure = np.float32(reach * CELL * _SAFETY) ** 2
        inside = keys if len(rows) == known else keys[distances < sure]
        reach += max(1, reach // 2)
    if len(inside) > count:
        inside = np.partition(inside, count - 1)[:count]
    return np.sort(inside & 0xFFFFFFFF)


def _cells(positions: NDArray[np.float32], origin: NDArray[np.float32]) -> NDArray[np.int64]:
    """[k, 3] along each axis."""
    cells: NDArray[np.int64] = np.floor((positions - origin) / CELL).astype(np.int64)
    return cells


def _numbered(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    numbers: NDArray[np.int64] = (
        (cells[..., 0] << 2 * _BITS) + (cells[..., 1] << _BITS) + cells[..., 2]
    )
    return numbers


def _within(cells: NDArray[np.int64], middle: NDArray[np.int64], reach: int) -> NDArray[np.int64]:
    """Rows whose cells are at most `reach` from the middle's along each axis."""
    low, high = np.maximum(middle - reach, 0), middle + reach
    x, y = (np.arange(low[axis], high[axis] + 1) for axis in (0, 1))
    columns = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)

    def bound(z: int) -> NDArray[np.int64]:
        return _numbered(np.concatenate([columns, np.full((len(columns), 1), z)], axis=1))

    starts = np.searchsorted(cells, bound(int(low[2])), side="left")
    ends = np.searchsorted(cells, bound(int(high[2])), side="right")
    counts = ends - starts
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(int(counts.sum()))
