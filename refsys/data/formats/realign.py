"""Realigning: the rows of a close homolog's alignment, put onto a chain's own columns."""

import re

import numpy as np
from numpy.typing import NDArray

from refsys.data.vocabulary import AMINO_ACIDS, PROTEIN_LETTERS, UNKNOWN
from refsys.errors import DataError

# The part of a chain's residues that an alignment's query has to have.
LEAST_IDENTITY = 0.7

_GAP_LETTER = ord("-")


def onto_query(
    letters: NDArray[np.uint8], deletions: NDArray[np.uint8], query: str
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Puts the rows of an alignment of a close homolog onto a chain's own columns.

    The alignment's query and the chain are aligned from end to end (BLOSUM62, affine gaps).
    Chain residues that no column of the alignment fits get a column of gaps. Columns that no chain
    residue fits go, and their residues and deletions are counted as deletions before the next
    column, which saturate at 255; after the last column, they are counted nowhere, as in A3M.

    Args:
        letters: [row, column] upper-case letters and gaps; row 0 is the alignment's query.
        deletions: [row, column] residues before the column.
        query: The chain's sequence.

    Returns:
        Letters and deletions [1 + row, chain residue]: the chain's own row, then all the rows.

    Raises:
        DataError: gemmi is missing, or less than 70 % of the chain's residues, X left out, are
            aligned to their like.
    """
    chain = np.frombuffer(query.encode("ascii"), np.uint8)
    theirs, ours = PROTEIN_LETTERS[letters[0]], PROTEIN_LETTERS[chain]
    column, dropped, before = _places(theirs, ours)
    fits = np.flatnonzero(column >= 0)
    known = int(np.count_nonzero(ours != UNKNOWN))
    like = int(np.count_nonzero((theirs[column[fits]] == ours[fits]) & (ours[fits] != UNKNOWN)))
    if not known or like < LEAST_IDENTITY * known:
        raise DataError(
            f"the query has {like} of the chain's {known} known residues; "
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
        lost = (letters[:, dropped] != _GAP_LETTER) + deletions[:, dropped].astype(np.int32)
        into, starts = np.unique(before, return_index=True)
        total = counts[1:, into] + np.add.reduceat(lost, starts, axis=1)
        counts[1:, into] = np.minimum(total, np.iinfo(counts.dtype).max)
    return out, counts


def _places(
    theirs: NDArray[np.uint8], ours: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Aligns two sequences of residue classes from end to end.

    Returns:
        [residue of ours] the residue of theirs or −1, the residues of theirs that fit none, and
        the residue of ours that comes after each.
    """
    try:
        import gemmi
    except ImportError:
        raise DataError("realigning needs gemmi: pip install 'foldperf[data]'") from None
    names = [*AMINO_ACIDS, "UNK"]
    found = gemmi.align_string_sequences(
        [names[code] for code in theirs],
        [names[code] for code in ours],
        [],
        gemmi.AlignmentScoring("b"),
    )
    column = np.full(len(ours), -1)
    dropped: list[int] = []
    before: list[int] = []
    place = [0, 0]
    for digits, operation in re.findall(r"(\d+)([MID])", found.cigar_str()):
        length = int(digits)
        if operation == "M":
            column[place[1] : place[1] + length] = np.arange(place[0], place[0] + length)
        elif operation == "I":
            dropped += range(place[0], place[0] + length)
            before += [place[1]] * length
        place[0] += length * (operation != "D")
        place[1] += length * (operation != "I")
    return column, np.array(dropped, np.int64), np.array(before, np.int64)
