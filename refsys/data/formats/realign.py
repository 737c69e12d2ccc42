"""Realignment of the MSA of a close homolog onto the columns of a chain."""

import re

import numpy as np
from numpy.typing import NDArray

from refsys.data.vocabulary import AMINO_ACIDS, PROTEIN_LETTERS, UNKNOWN
from refsys.errors import DataError

# Fraction of the chain's residues that must be identical in the MSA's query.
LEAST_IDENTITY = 0.7

_GAP_LETTER = ord("-")


def onto_query(
    letters: NDArray[np.uint8], deletions: NDArray[np.uint8], query: str
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Realign the rows of a close homolog's MSA onto the columns of a chain.

    The MSA's query and the chain are aligned globally (BLOSUM62, affine gaps). Chain residues
    without a column of the MSA get a column of gaps. Columns without a chain residue are removed,
    and their residues and deletions are added to the deletions before the next column, which
    saturate at 255; after the last column they are dropped, as in A3M.

    Args:
        letters: [row, column] upper-case letters and gaps; row 0 is the MSA's query.
        deletions: [row, column] residues inserted before the column.
        query: Sequence of the chain.

    Returns:
        Letters and deletions [1 + row, chain residue]: the chain's row, then all rows of the MSA.

    Raises:
        DataError: gemmi is missing, or less than 70 % of the chain's residues, X left out, are
            identical in the MSA's query.
    """
    chain = np.frombuffer(query.encode("ascii"), np.uint8)
    query_codes, chain_codes = PROTEIN_LETTERS[letters[0]], PROTEIN_LETTERS[chain]
    column, dropped, before = _global_alignment(query_codes, chain_codes)
    fits = np.flatnonzero(column >= 0)
    known_count = int(np.count_nonzero(chain_codes != UNKNOWN))
    identical = int(
        np.count_nonzero(
            (query_codes[column[fits]] == chain_codes[fits]) & (chain_codes[fits] != UNKNOWN)
        )
    )
    if not known_count or identical < LEAST_IDENTITY * known_count:
        raise DataError(
            f"the query has {identical} of the chain's {known_count} known residues; "
            f"realigning takes {LEAST_IDENTITY:.0%}"
        )
    rows = len(letters) + 1
    out = np.full((rows, len(chain)), _GAP_LETTER, np.uint8)
    out[0] = chain
    out[1:, fits] = letters[:, column[fits]]
    counts = np.zeros((rows, len(chain)), np.uint8)
    counts[1:, fits] = deletions[:, column[fits]]
    dropped, before = dropped[before < len(chain)], before[before < len(chain)]
    if dropped.size:
        removed = (letters[:, dropped] != _GAP_LETTER) + deletions[:, dropped].astype(np.int32)
        into, starts = np.unique(before, return_index=True)
        total = counts[1:, into] + np.add.reduceat(removed, starts, axis=1)
        counts[1:, into] = np.minimum(total, np.iinfo(counts.dtype).max)
    return out, counts


def _global_alignment(
    query_codes: NDArray[np.uint8], chain_codes: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Align two sequences of residue classes globally.

    Args:
        query_codes: Residue classes of the MSA's query.
        chain_codes: Residue classes of the chain.

    Returns:
        [chain residue] the aligned query residue or −1; the query residues without a chain
        residue; and for each of those the chain residue that follows it.
    """
    try:
        import gemmi
    except ImportError:
        raise DataError("realigning needs gemmi: pip install 'foldperf[data]'") from None
    names = [*AMINO_ACIDS, "UNK"]
    alignment = gemmi.align_string_sequences(
        [names[code] for code in query_codes],
        [names[code] for code in chain_codes],
        [],
        gemmi.AlignmentScoring("b"),
    )
    column = np.full(len(chain_codes), -1)
    dropped: list[int] = []
    before: list[int] = []
    position = [0, 0]
    for digits, operation in re.findall(r"(\d+)([MID])", alignment.cigar_str()):
        length = int(digits)
        if operation == "M":
            column[position[1] : position[1] + length] = np.arange(
                position[0], position[0] + length
            )
        elif operation == "I":
            dropped += range(position[0], position[0] + length)
            before += [position[1]] * length
        position[0] += length * (operation != "D")
        position[1] += length * (operation != "I")
    return column, np.array(dropped, np.int64), np.array(before, np.int64)
