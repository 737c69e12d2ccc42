"""Pairing: rows of one species side by side across the alignments of a complex.

After AlphaFold-Multimer (Evans et al. 2021) and AlphaFold 3 (Abramson et al. 2024): the rows of a
species are ranked by their identity to the query; the k-th of one alignment goes with the k-th of
another.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS_PER_SPECIES = 600
PAIRED_ROWS = 8_191

# Identities are whole numbers: their sum does not depend on the order of the alignments.
_IDENTITY_UNIT = 1_000_000


def paired_rows(
    alignments: Sequence[Mapping[str, NDArray[Any]]],
    *,
    per_species: int = ROWS_PER_SPECIES,
    most: int = PAIRED_ROWS,
) -> NDArray[np.int32]:
    """The rows of a complex's distinct alignments that go together.

    A species of two alignments or more gives as many paired rows as it has rows in that of them
    with the fewest, and `per_species` at most. Species of more alignments come first, then paired
    rows of higher mean identity to the queries (in steps of 10⁻⁶); ties go by the species' number,
    then by rank. Paired rows of queries alone, and those that repeat an earlier one, are left out.

    Args:
        alignments: Alignment records, see `refsys.data.formats.msa.alignment_columns`.
        per_species: Most paired rows of a species.
        most: Most paired rows, the queries' own among them.

    Returns:
        [paired row, alignment] row numbers, −1 where the alignment lacks the species. The first
        row is the queries' own, and the only one of a single alignment.
    """
    if len(alignments) < 2:
        return np.zeros((1, len(alignments)), np.int32)
    tables = [_ranked(alignment, per_species) for alignment in alignments]
    alignment = np.repeat(np.arange(len(tables)), [len(row) for row, *_ in tables])
    row, species, rank, identity = map(np.concatenate, zip(*tables, strict=True))
    # A pair is a species and a rank. It counts if every alignment that has the species' best row
    # has this one too.
    key = species * per_species + rank
    pairs, pair, members = np.unique(key, return_inverse=True, return_counts=True)
    held_by = members[np.searchsorted(pairs, pairs - pairs % per_species)]
    total = np.zeros(len(pairs), np.int64)
    np.add.at(total, pair, identity)
    paired = np.full((len(pairs), len(tables)), -1, np.int32)
    paired[pair, alignment] = row
    order = np.lexsort([pairs, -total, -held_by])
    whole = (members == held_by) & (held_by > 1) & (paired > 0).any(axis=1)
    paired = np.insert(paired[order[whole[order]]], 0, 0, axis=0)
    first = np.unique(paired, axis=0, return_index=True)[1]
    return paired[np.sort(first)[:most]]


def _ranked(
    alignment: Mapping[str, NDArray[Any]], per_species: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Row, species, rank within the species, and identity to the query in millionths."""
    codes, named, further = (alignment[k] for k in ("codes", "species", "further_species"))
    known = np.flatnonzero(named >= 0)
    row = np.concatenate([known, further[:, 0]]).astype(np.int64)
    species = np.concatenate([named[known], further[:, 1]]).astype(np.int64)
    like = np.count_nonzero(codes == codes[0], axis=1)
    identity = (like * _IDENTITY_UNIT // codes.shape[1])[row]
    order = np.lexsort([row, -identity, species])
    row, species, identity = row[order], species[order], identity[order]
    rank = np.arange(len(row)) - np.searchsorted(species, species)
    kept = rank < per_species
    return row[kept], species[kept], rank[kept], identity[kept]
