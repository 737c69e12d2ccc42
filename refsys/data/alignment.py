"""Alignments: A3M text to rows of residue classes and deletion counts."""

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refsys.data.vocabulary import GAP, ILLEGAL_LETTER, PROTEIN_LETTERS, RESIDUE_CLASSES
from refsys.errors import DataError

_MAX_DELETIONS = 255


def read_a3m(path: Path, query: str | None = None) -> dict[str, NDArray[Any]]:
    """Reads an A3M file, gzip-compressed if its name ends in ``.gz``.

    Of rows that differ in their insertions alone, the first is kept.

    Args:
        path: The file. Its first row is the query.
        query: The sequence that the first row must be, X matching anything.

    Returns:
        The columns of an alignment record, see `alignment_columns`.

    Raises:
        DataError: the file is missing, damaged, empty, ragged, not A3M, or of another sequence.
    """
    try:
        text = path.read_bytes()
        if path.suffix == ".gz":
            text = gzip.decompress(text)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: not readable: {getattr(error, 'strerror', None) or error}"
        ) from None
    letters, lengths, lines = _rows(path, text)
    aligned, deletions = _columns(path, letters, lengths, lines)
    codes = PROTEIN_LETTERS[aligned]
    if (codes == ILLEGAL_LETTER).any():
        row, column = (int(place[0]) for place in np.nonzero(codes == ILLEGAL_LETTER))
        raise DataError(
            f"{path}: line {lines[row]}: {chr(aligned[row, column])!r} in column {column + 1} is "
            "not a residue or a gap"
        )
    if (codes[0] == GAP).any():
        column = int(np.flatnonzero(codes[0] == GAP)[0])
        raise DataError(f"{path}: line {lines[0]}: the query has a gap in column {column + 1}")
    if query is not None:
        _check_query(path, aligned[0].tobytes().decode("ascii"), query)
    _, first = np.unique(aligned, axis=0, return_index=True)
    kept = np.sort(first)
    return alignment_columns(codes[kept], deletions[kept])


def query_only(query: str) -> dict[str, NDArray[Any]]:
    """The alignment of a sequence that has no other row."""
    codes = PROTEIN_LETTERS[np.frombuffer(query.encode("ascii"), np.uint8)][None]
    return alignment_columns(codes, np.zeros_like(codes))


def alignment_columns(
    codes: NDArray[np.uint8], deletions: NDArray[np.uint8]
) -> dict[str, NDArray[Any]]:
    """The columns of an alignment record.

    Args:
        codes: [row, column] residue classes; row 0 is the query.
        deletions: [row, column] residues of the row that fall before the column, at most 255.

    Returns:
        ``codes`` and ``deletions`` as given, ``profile`` [column, class] float32 frequencies, and
        ``deletion_mean`` [column] float32.
    """
    columns = codes.shape[1]
    cells = np.arange(columns) * RESIDUE_CLASSES + codes
    counts = np.bincount(cells.reshape(-1), minlength=columns * RESIDUE_CLASSES)
    return {
        "codes": codes,
        "deletions": deletions,
        "profile": (counts.reshape(columns, -1) / len(codes)).astype(np.float32),
        "deletion_mean": deletions.mean(axis=0, dtype=np.float64).astype(np.float32),
    }


def _rows(path: Path, text: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[int]]:
    """All rows' letters end to end, each row's length, and the line of each row's header."""
    rows: list[bytes] = []
    lines: list[int] = []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if stripped.startswith(b">"):
            rows.append(b"")
            lines.append(number)
        elif stripped.startswith(b"#") and not rows:
            continue
        elif stripped and not rows:
            raise DataError(f"{path}: line {number}: not A3M: expected '>' before any sequence")
        elif stripped:
            rows[-1] += stripped.replace(b".", b"")
    if not rows:
        raise DataError(f"{path}: no rows: empty or truncated")
    if b"" in rows:
        line_number = lines[rows.index(b"")]
        raise DataError(f"{path}: line {line_number}: a header without a sequence; truncated?")
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    return np.frombuffer(b"".join(rows), np.uint8), lengths, lines


def _columns(
    path: Path, letters: NDArray[np.uint8], lengths: NDArray[np.int64], lines: list[int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Splits aligned letters from insertions (lower case), which become deletion counts."""
    inserted = (letters >= ord("a")) & (letters <= ord("z"))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    width = np.diff(np.concatenate([[0], np.cumsum(~inserted)])[starts])
    ragged = np.flatnonzero(width != width[0])
    if ragged.size:
        row = int(ragged[0])
        raise DataError(
            f"{path}: line {lines[row]}: {width[row]} aligned columns; the query has {width[0]}"
        )
    shape = (len(lengths), int(width[0]))
    aligned = letters[~inserted].reshape(shape)
    before = np.cumsum(inserted)
    passed = before[~inserted].reshape(shape)
    row_start = np.concatenate([[0], before])[starts[:-1], None]
    deletions = np.diff(np.concatenate([row_start, passed], axis=1), axis=1)
    return aligned, np.minimum(deletions, _MAX_DELETIONS).astype(np.uint8)


def _check_query(path: Path, found: str, query: str) -> None:
    if len(found) != len(query):
        raise DataError(f"{path}: the query has {len(found)} residues; the chain has {len(query)}")
    for column, (ours, theirs) in enumerate(zip(found, query, strict=True), start=1):
        if ours != theirs and "X" not in {ours, theirs}:
            raise DataError(
                f"{path}: the query has {ours} in column {column}; the chain has {theirs}"
            )
