"""Division of tokens and atoms among the ranks of a context group.

Every rank owns contiguous tokens, and contiguous windows of atoms; the first ranks have one more
where they do not divide evenly. The atoms of a rank belong to other tokens than those that it owns,
so each rank also has the interval of tokens that its atoms belong to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refsys.batch import ATOM_HALO, ATOM_WINDOW
from refsys.errors import ArgumentError

# First item, and one past the last.
Interval = tuple[int, int]


def shares(count: int, ranks: int) -> tuple[Interval, ...]:
    """Return the contiguous share of each rank of `count` items; the first ones are one longer."""
    size, longer = divmod(count, ranks)
    stops = [size * (rank + 1) + min(rank + 1, longer) for rank in range(ranks)]
    return tuple(zip([0, *stops[:-1]], stops, strict=True))


@dataclass(frozen=True, slots=True)
class AtomShares:
    """Atoms of every rank, and the tokens that they belong to.

    Attributes:
        atoms: Number of atoms on all ranks.
        slabs: Atoms of each rank, whole windows.
        tokens: Interval of the tokens of each rank's atoms, one token at least.
        key_tokens: The same for its atoms and those that they attend to.
    """

    atoms: int
    slabs: tuple[Interval, ...]
    tokens: tuple[Interval, ...]
    key_tokens: tuple[Interval, ...]

    @classmethod
    def of(cls, atom_token: NDArray[np.integer[Any]], ranks: int) -> "AtomShares":
        """Return the shares of a batch.

        Args:
            atom_token: [batch, atom], token of each atom, negative where padded.
            ranks: Ranks of the context group.

        Raises:
            ArgumentError: there are fewer windows of atoms than ranks.
        """
        atoms = atom_token.shape[-1]
        slabs = _slabs(atoms, ranks)
        halos = [(max(first - ATOM_HALO, 0), stop + ATOM_HALO) for first, stop in slabs]
        return cls(
            atoms,
            slabs,
            tuple(_tokens_of(atom_token, slab) for slab in slabs),
            tuple(_tokens_of(atom_token, halo) for halo in halos),
        )

    @classmethod
    def uniform(cls, atoms: int, tokens: int, ranks: int) -> "AtomShares":
        """Return the shares of a batch whose tokens have equally many atoms, for tracing."""
        return cls.of(np.arange(atoms)[None] * tokens // atoms, ranks)


def _slabs(atoms: int, ranks: int) -> tuple[Interval, ...]:
    windows = atoms // ATOM_WINDOW
    if windows < ranks:
        raise ArgumentError(
            f"{atoms} atoms are {windows} windows of {ATOM_WINDOW}, too few for {ranks} ranks"
        )
    return tuple(
        (first * ATOM_WINDOW, stop * ATOM_WINDOW) for first, stop in shares(windows, ranks)
    )


def _tokens_of(atom_token: NDArray[np.integer[Any]], atoms: Interval) -> Interval:
    tokens = atom_token[:, slice(*atoms)]
    tokens = tokens[tokens >= 0]
    if not tokens.size:
        return 0, 1
    return int(tokens.min()), int(tokens.max()) + 1


def overlap(first: Interval, second: Interval) -> Interval:
    """Return the interval that is in both; an empty one if they do not meet."""
    start = max(first[0], second[0])
    return start, max(start, min(first[1], second[1]))


def sizes(intervals: Sequence[Interval]) -> list[int]:
    """Return the number of items in each interval."""
    return [stop - start for start, stop in intervals]
