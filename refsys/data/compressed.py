"""Reading files that may be compressed, in bounds."""

import gzip
import zlib
from pathlib import Path

from refsys.errors import DataError

# What a few kilobytes of zeros may not unpack to.
_MOST_BYTES = 1 << 30


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked if its name ends in ``.gz``.

    Raises:
        DataError: it cannot be read, is damaged, or unpacks to more than 1 GiB.
    """
    try:
        if path.suffix != ".gz":
            return path.read_bytes()
        with gzip.open(path) as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: not readable: {reason}") from None
    if len(content) > _MOST_BYTES:
        raise DataError(f"{path}: not readable: unpacks to more than {_MOST_BYTES >> 30} GiB")
    return content


def inner_suffix(path: Path) -> str:
    """The suffix that says what a file holds, in lower case: that before ``.gz``."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix == ".gz" else suffix
