"""Reader of A3M: one text per sequence, without the annotations of other tools.

It leaves out a byte-order mark, the NUL that mmseqs writes after an MSA, HH-suite's rows of
secondary structure, and the ``*`` of a stop codon at the end of a sequence.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from refsys.data.formats.compressed import read_text_of
from refsys.data.formats.file_kind import FASTA
from refsys.errors import DataError, one_line

# Annotation rows, not sequences, that HH-suite writes before or after the query.
_ANNOTATION = re.compile(rb">[ \t]*((?:ss|sa|aa)_(?:pred|conf|dssp))\b")
_LOWER = bytes(range(ord("a"), ord("z") + 1))
_STOP, _GAP = b"*", b"-"


class A3mRows(NamedTuple):
    """The rows of an A3M file.

    Attributes:
        rows: [row] text: upper case and ``-`` for columns, lower case for insertions.
        headers: [row] header, with ``>``.
        lines: [row] line of the file with its header.
        notes: Sentences on what was left out.
    """

    rows: list[bytes]
    headers: list[bytes]
    lines: list[int]
    notes: list[str]


def read_a3m(path: Path) -> A3mRows:
    """Read the rows of an A3M or aligned FASTA file, gzip-compressed if its name ends in ``.gz``.

    A ``.`` pads the insertions of other rows and is left out; in a file without insertions it is a
    gap.

    Raises:
        DataError: the file is missing, damaged, of another format, or has no rows or several MSAs.
    """
    text = without_final_nul(read_text_of(path, FASTA, "A3M"))
    rows: list[bytes] = []
    headers: list[bytes] = []
    lines: list[int] = []
    annotations: list[str] = []
    is_annotation = False
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if stripped.startswith(b">"):
            annotation = _ANNOTATION.match(stripped)
            is_annotation = annotation is not None
            if annotation:
                annotations.append(annotation[1].decode("ascii"))
                continue
            rows.append(b"")
            headers.append(stripped)
            lines.append(number)
        elif is_annotation or (stripped.startswith(b"#") and not rows):
            continue
        elif stripped and not rows:
            raise DataError(f"{path}: line {number}: not A3M: expected '>' before any sequence")
        elif b"\0" in stripped:
            raise DataError(
                f"{path}: line {number}: a NUL byte, which mmseqs writes between MSAs; "
                "split them into files"
            )
        elif stripped:
            rows[-1] += stripped
    if not rows:
        raise DataError(f"{path}: no rows: empty or truncated")
    rows = _without_dots(rows)
    if b"" in rows:
        line_number = lines[rows.index(b"")]
        raise DataError(f"{path}: line {line_number}: a header without a sequence; truncated?")
    notes = []
    if annotations:
        names = ", ".join(dict.fromkeys(annotations))
        notes.append(one_line(f"{path.name}: skipped {names}: annotation, not sequences"))
    return A3mRows(without_stops(rows), headers, lines, notes)


def without_final_nul(text: bytes) -> bytes:
    """Return the text of an MSA without the NUL that mmseqs writes after it."""
    end = text.rstrip(b"\0 \t\r\n")
    return end + b"\n" if b"\0" in text[len(end) :] else text


def without_stops(rows: Sequence[bytes]) -> list[bytes]:
    """Return A3M rows without the ``*`` that ends a sequence.

    After the query's last residue the column is removed; within the query's columns it becomes a
    gap.
    """
    if not any(_STOP in row for row in rows):
        return list(rows)
    query = rows[0].rstrip(_STOP)
    width, stop_columns = _width(query), len(rows[0]) - len(query)
    return [query, *(_without_stop(row, width, stop_columns) for row in rows[1:])]


def _without_stop(row: bytes, width: int, stop_columns: int) -> bytes:
    """Return a row without its stop codon.

    Args:
        row: A3M text.
        width: Number of columns of the query, without its stop.
        stop_columns: Number of columns of the query's stop, 0 if it has none.
    """
    surplus = _width(row) - width
    removable = (_STOP, _GAP) if stop_columns else (_STOP,)
    while surplus > 0 and row.endswith(removable):
        row, surplus = row[:-1], surplus - 1
    if 0 < surplus <= stop_columns:
        # A residue aligned with the query's stop is an insertion after the last column.
        row = row[:-surplus] + row[-surplus:].lower()
    sequence = row.rstrip(_GAP)
    if sequence.endswith(_STOP):
        row = sequence[:-1] + _GAP * (len(row) - len(sequence) + 1)
    return row


def _without_dots(rows: list[bytes]) -> list[bytes]:
    if not any(b"." in row for row in rows):
        return rows
    has_insertions = any(row.translate(None, _LOWER) != row for row in rows)
    return [row.replace(b".", b"" if has_insertions else _GAP) for row in rows]


def _width(row: bytes) -> int:
    """Return the number of aligned columns."""
    return len(row.translate(None, _LOWER))
