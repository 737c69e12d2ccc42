"""Bucket sizes that batches are padded to: few, so that compiled or captured programs are reused.

Padding a short protein to the full crop size would waste most of the work; its bucket does not.
"""

from collections.abc import Iterator
from itertools import count

_ATOMS_PER_TOKEN = (8, 12, 16, 24)


def token_bucket(tokens: int, limit: int) -> int:
    """Return the size of the token axis: 64, 128, 192, 256, 384, 512, 768 and so on, or `limit`.

    Args:
        tokens: Number of tokens of the crop, at most `limit`.
        limit: Size of the largest crop.
    """
    return _smallest(tokens, limit, _tokens())


def row_bucket(rows: int, limit: int) -> int:
    """Return the size of the MSA row axis: 16, 64, 256 and so on, or `limit`."""
    return _smallest(rows, limit, (16 * 4**power for power in count()))


def atom_bucket(atoms: int, tokens: int) -> int:
    """Return the size of the atom axis: 8, 12, 16, 24, 32, 40, ... atoms per padded token."""
    sizes = (*_ATOMS_PER_TOKEN, *range(32, 8 * atoms + 32, 8))
    return next(size * tokens for size in sizes if size * tokens >= atoms)


def _tokens() -> Iterator[int]:
    yield from (64, 128, 192)
    for power in count(8):
        yield 1 << power
        yield 3 << power - 1


def _smallest(size: int, limit: int, sizes: Iterator[int]) -> int:
    return min(limit, next(bucket for bucket in sizes if bucket >= size))
