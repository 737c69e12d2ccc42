"""MSA pairing: rows of one species side by side across the MSAs of a complex.

After AlphaFold-Multimer (Evans et al. 2021) and AlphaFold 3 (Abramson et al. 2024): the rows of a
species are ranked by identity to the query, and the k-th of one MSA is paired with the k-th of
another.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS_PER_SPECIES = 600
PAIRED_ROWS = 8_191

# Identities are integers in this unit, so that their sum does not depend on the order of the MSAs.
_IDENTITY_UNIT = 1_000_000


def paired_rows(
    msas: Sequence[Mapping[str, NDArray[Any]]],
    *,
    per_species: int = ROWS_PER_SPECIES,
    limit: int = PAIRED_ROWS,
) -> NDArray[np.int32]:
    """Return the paired rows of the distinct MSAs of a complex.

    A species in two or more MSAs gives as many paired rows as it has rows in the MSA with the
    fewest, `per_species` at most. Paired rows are sorted by the number of MSAs (most first), then
    by mean identity to the queries (highest first, in steps of 10⁻⁶), then by the number of the
    species, then by rank. Paired rows of the queries alone, and repetitions, are left out.

    Args:
        msas: MSA records, see `refsys.data.formats.msa.msa_columns`.
        per_species: Most paired rows of a species.
        limit: Most paired rows, including that of the queries.

    Returns:
        [paired row, MSA] row numbers, −1 where the MSA lacks the species. The first row is that of
        the queries, and the only one for a single MSA.
    """
    if len(msas) < 2:
        return np.zeros((1, len(msas)), np.int32)
    tables = [_ranked(msa, per_species) for msa in msas]
    msa = np.repeat(np.arange(len(tables)), [len(row) for row, *_ in tables])
    row, species, rank, identity = map(np.concatenate, zip(*tables, strict=True))
    # A pair is a species and a rank. It is complete if every MSA with a row of the species has a
    # row of this rank.
    key = species * per_species + rank
    pairs, pair, members = np.unique(key, return_inverse=True, return_counts=True)
    held_by = members[np.searchsorted(pairs, pairs - pairs % per_species)]
    total = np.zeros(len(pairs), np.int64)
    np.add.at(total, pair, identity)
    paired = np.full((len(pairs), len(tables)), -1, np.int32)
    paired[pair, msa] = row
    order = np.lexsort([pairs, -total, -held_by])
    complete = (members == held_by) & (held_by > 1) & (paired > 0).any(axis=1)
    paired = np.insert(paired[order[complete[order]]], 0, 0, axis=0)
    first = np.unique(paired, axis=0, return_index=True)[1]
    return paired[np.sort(first)[:limit]]


def _ranked(
    msa: Mapping[str, NDArray[Any]], per_species: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the row, species, rank in the species and identity to the query in millionths."""
    codes, first_species, further_species = (
        msa[k] for k in ("codes", "species", "further_species")
    )
    with_species = np.flatnonzero(first_species >= 0)
    row = np.concatenate([with_species, further_species[:, 0]]).astype(np.int64)
    species = np.concatenate([first_species[with_species], further_species[:, 1]]).astype(np.int64)
    identical = np.count_nonzero(codes == codes[0], axis=1)
    identity = (identical * _IDENTITY_UNIT // codes.shape[1])[row]
    order = np.lexsort([row, -identity, species])
    row, species, identity = row[order], species[order], identity[order]
    rank = np.arange(len(row)) - np.searchsorted(species, species)
    within_limit = rank < per_species
    return row[within_limit], species[within_limit], rank[within_limit], identity[within_limit]
