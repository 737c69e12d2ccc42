"""Stockholm alignments: rows laid onto the query's columns, as A3M writes them."""

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
# What `#=GS` lines say of a row that its species may be read from, and how a header has it.
_DESCRIPTIONS = {b"DE": b" ", b"OS": b" OS=", b"OX": b" OX="}


class StockholmRows(NamedTuple):
    """An alignment's rows as A3M text.

    Attributes:
        letters: All rows end to end; insertions in lower case.
        lengths: [row] of them.
        headers: Of each row: its name and description.
        lines: Of each row: the line of the file on which it begins.
    """

    letters: NDArray[np.uint8]
    lengths: NDArray[np.int64]
    headers: list[bytes]
    lines: list[int]


def read_stockholm(path: Path) -> StockholmRows:
    """Read the alignment of a Stockholm file, gzip-compressed if its name ends in ``.gz``.

    Columns in which the first row, the query, has a gap are insertions.

    Raises:
        DataError: the file is missing, damaged, truncated, ragged, or has more than one alignment.
    """
    text = without_final_nul(read_text_of(path, STOCKHOLM))
    rows, lines, described = _read(path, text)
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
    kept = aligned | ~gap
    return StockholmRows(
        text_letters[kept],
        np.count_nonzero(kept, axis=1),
        [name + described.get(name, b"") for name in rows],
        list(lines.values()),
    )


def _without_stop(row: bytearray) -> bytes:
    """Return a row with a gap in place of the ``*`` that ends its sequence."""
    sequence = row.rstrip(_GAP_BYTES)
    return bytes(sequence[:-1] + b"-" + row[len(sequence) :] if sequence.endswith(b"*") else row)


def _read(
    path: Path, text: bytes
) -> tuple[dict[bytes, bytearray], dict[bytes, int], dict[bytes, bytes]]:
    """Rows, the line on which each begins, and what is said of it, by name."""
    rows: dict[bytes, bytearray] = {}
    lines: dict[bytes, int] = {}
    described: dict[bytes, bytes] = {}
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
            raise DataError(f"{path}: line {number}: more than one alignment")
        elif words[0] == _END:
            ended = True
        elif words[0] == b"#=GS" and len(words) == 4 and words[2] in _DESCRIPTIONS:
            said = _DESCRIPTIONS[words[2]] + words[3].rstrip()
            described[words[1]] = described.get(words[1], b"") + said
        elif not line.startswith(b"#"):
            if len(words) != 2:
                raise DataError(f"{path}: line {number}: not a name and a piece of its row")
            lines.setdefault(words[0], number)
            rows.setdefault(words[0], bytearray()).extend(words[1])
    if not rows or not ended:
        raise DataError(f"{path}: {'no end' if rows else 'no rows'}: empty or truncated")
    return rows, lines, described
