"""Reader of Stockholm MSAs, as A3M text: columns of the query, insertions in lower case."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refsys.data.formats.a3m import without_final_nul
from refsys.data.formats.compressed import read_text_of
from refsys.data.formats.file_kind import STOCKHOLM
from refsys.errors import DataError

_START, _END = b"# STOCKHOLM 1.", b"//"
_GAP_BYTES = b"-._~"
_GAPS = np.isin(np.arange(256), np.frombuffer(_GAP_BYTES, np.uint8))
_UPPER = np.array([ord(chr(code).upper()) if code < 128 else code for code in range(256)], np.uint8)
_LOWER = np.array([ord(chr(code).lower()) if code < 128 else code for code in range(256)], np.uint8)
_GAP_LETTER = ord("-")
# Features of `#=GS` lines that may name the species -> their prefix in a header.
_DESCRIPTIONS = {b"DE": b" ", b"OS": b" OS=", b"OX": b" OX="}


class StockholmRows(NamedTuple):
    """Rows of an MSA as A3M text.

    Attributes:
        letters: All rows, concatenated; insertions in lower case.
        lengths: [row] number of letters.
        headers: [row] name and description.
        lines: [row] line of the file where the row begins.
    """

    letters: NDArray[np.uint8]
    lengths: NDArray[np.int64]
    headers: list[bytes]
    lines: list[int]


def read_stockholm(path: Path) -> StockholmRows:
    """Read the MSA of a Stockholm file, gzip-compressed if its name ends in ``.gz``.

    Columns in which the first row, the query, has a gap are insertions.

    Raises:
        DataError: the file is missing, damaged, truncated, ragged, or has more than one MSA.
    """
    text = without_final_nul(read_text_of(path, STOCKHOLM))
    rows, lines, descriptions = _read(path, text)
    width = len(next(iter(rows.values())))
    for name, row in rows.items():
        if len(row) != width:
            raise DataError(
                f"{path}: line {lines[name]}: {len(row)} columns; the query has {width}"
            )
    letters = np.frombuffer(b"".join(map(_without_stop, rows.values())), np.uint8)
    letters = letters.reshape(len(rows), width)
    gap = _GAPS[letters]
    aligned = ~gap[0]
    text_letters = np.where(aligned, np.where(gap, _GAP_LETTER, _UPPER[letters]), _LOWER[letters])
    is_letter = aligned | ~gap
    return StockholmRows(
        text_letters[is_letter],
        np.count_nonzero(is_letter, axis=1),
        [name + descriptions.get(name, b"") for name in rows],
        list(lines.values()),
    )


def _without_stop(row: bytearray) -> bytes:
    """Return a row with a gap in place of the ``*`` that ends its sequence."""
    sequence = row.rstrip(_GAP_BYTES)
    return bytes(sequence[:-1] + b"-" + row[len(sequence) :] if sequence.endswith(b"*") else row)


def _read(
    path: Path, text: bytes
) -> tuple[dict[bytes, bytearray], dict[bytes, int], dict[bytes, bytes]]:
    """Return the rows, the line where each begins, and its description, by name."""
    rows: dict[bytes, bytearray] = {}
    lines: dict[bytes, int] = {}
    descriptions: dict[bytes, bytes] = {}
    started = ended = False
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split(None, 3)
        if not words:
            continue
        if not started:
            if not line.startswith(_START):
                raise DataError(f"{path}: line {number}: not Stockholm: expected '# STOCKHOLM 1.0'")
            started = True
        elif ended:
            raise DataError(f"{path}: line {number}: more than one MSA; split them into files")
        elif words[0] == _END:
            ended = True
        elif words[0] == b"#=GS" and len(words) == 4 and words[2] in _DESCRIPTIONS:
            description = _DESCRIPTIONS[words[2]] + words[3].rstrip()
            descriptions[words[1]] = descriptions.get(words[1], b"") + description
        elif not line.startswith(b"#"):
            if len(words) != 2:
                raise DataError(f"{path}: line {number}: expected a name and a part of its row")
            lines.setdefault(words[0], number)
            rows.setdefault(words[0], bytearray()).extend(words[1])
    if not rows or not ended:
        raise DataError(f"{path}: {'no end' if rows else 'no rows'}: empty or truncated")
    return rows, lines, descriptions
