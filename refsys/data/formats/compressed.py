"""Bounded reading of files that may be gzip-compressed, with a check of their format."""

import gzip
import zlib
from pathlib import Path

from refsys.data.formats.file_kind import (
    EMPTY,
    FASTA,
    GZIP,
    HEAD_BYTES,
    PARQUET,
    READABLE,
    STOCKHOLM,
    FileKind,
    file_kind,
    without_bom,
)
from refsys.errors import DataError

# Limit of the unpacked size, against a few kilobytes that unpack to fill the memory.
_MOST_BYTES = 1 << 30


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, unpacked if its name ends in ``.gz``.

    Raises:
        DataError: it cannot be read, is damaged, is not compressed as its name says, or unpacks to
            more than 1 GiB.
    """
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: not readable: {error.strerror}") from None
    if path.suffix.lower() != ".gz":
        return packed
    kind = file_kind(packed)
    if kind != GZIP and packed:
        contents = f"the file is {kind.name}" if kind else "its first bytes are others"
        remedy = kind.remedy if kind and kind not in READABLE else "remove .gz from its name"
        raise DataError(f"{path}: not readable: not gzip: {contents}; {remedy}")
    try:
        with gzip.open(path) as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: not readable: {reason}") from None
    if len(content) > _MOST_BYTES:
        raise DataError(f"{path}: not readable: unpacks to more than {_MOST_BYTES >> 30} GiB")
    return content


def read_head(path: Path) -> bytes:
    """Return the first bytes of a file as they are, enough for `file_kind`.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise DataError(f"{path}: not readable: {error.strerror}") from None


def read_text_of(path: Path, expected: FileKind, name: str | None = None) -> bytes:
    """Return the bytes of a text of one format, without a byte-order mark.

    Args:
        path: The file, gzip-compressed if its name ends in ``.gz``.
        expected: Its format. A file of an unrecognized format passes: its parser reports more.
        name: Name of the format in messages; that of `expected` if None.

    Raises:
        DataError: the file cannot be read, or its first bytes are of another format.
    """
    content = read_bytes(path)
    check_kind(path, content, expected, name)
    return without_bom(content)


def check_kind(path: Path, content: bytes, expected: FileKind, name: str | None = None) -> None:
    """Refuse content whose first bytes are of another format.

    Raises:
        DataError: they are of another format; the message names both formats and a remedy.
    """
    kind = file_kind(content)
    # The readers of MSAs report missing rows, which says more.
    if kind == EMPTY and expected in {FASTA, STOCKHOLM, PARQUET}:
        return
    if kind and kind != expected:
        raise DataError(
            f"{path}: not readable as {name or expected.name}: the file is {kind.name}; "
            f"{kind.remedy}"
        )


def inner_suffix(path: Path) -> str:
    """Return the suffix of a file's format in lower case: the one before ``.gz``."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix == ".gz" else suffix
