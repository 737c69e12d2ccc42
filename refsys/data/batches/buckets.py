"""Sizes that batches are padded to: few, so that what is compiled or captured for one serves again.

A short protein in a crop's full size would be padding for the most part; in its bucket it is not.
"""

from collections.abc import Iterator
from itertools import count

_ATOMS_PER_TOKEN = (8, 12, 16, 24)


def token_bucket(tokens: int, most: int) -> int:
    """The token axis of a crop: 64, 128, 192, 256, then 1½ and 2 times that, and so on; or `most`.

    Args:
        tokens: Of the crop, at most `most`.
        most: The largest crop.
    """
    return _first(tokens, most, _tokens())


def row_bucket(rows: int, most: int) -> int:
    """The alignment axis: 16, 64, 256 and so on; or `most`."""
    return _first(rows, most, (16 * 4**power for power in count()))


def atom_bucket(atoms: int, tokens: int) -> int:
    """The atom axis: 8, 12, 16 or 24 atoms for each token of the token axis, or more by 8."""
    sizes = (*_ATOMS_PER_TOKEN, *range(32, 8 * atoms + 32, 8))
    return next(size * tokens for size in sizes if size * tokens >= atoms)


def _tokens() -> Iterator[int]:
    yield from (64, 128, 192)
    for power in count(8):
        yield 1 << power
        yield 3 << power - 1


def _first(wanted: int, most: int, sizes: Iterator[int]) -> int:
    return min(most, next(size for size in sizes if size >= wanted))
