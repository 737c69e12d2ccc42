"""Names of entries, from the name of a file or of a data block.

An entry's name is a file name in the store and a word on the command line.
"""

import hashlib
import re
from pathlib import Path

from refsys.errors import DataError

RESERVED_ENTRY = "synthetic"
_LONGEST = 64
_ENTRY = re.compile(rf"[a-z0-9][a-z0-9_.-]{{0,{_LONGEST - 1}}}")
_UNSAFE = re.compile(r"[^a-z0-9_.-]+")
_DIGEST_DIGITS = 8
# Characters before the digest of a name that is too long or has no usable characters.
_LONGEST_STEM = _LONGEST - 1 - _DIGEST_DIGITS


def is_entry_name(name: str) -> bool:
    """Return whether an entry may have this name."""
    return _ENTRY.fullmatch(name) is not None and name != RESERVED_ENTRY


def check_entry(path: Path, name: str) -> str:
    """Return a name in lower case if it can name an entry.

    Raises:
        DataError: it cannot.
    """
    entry = name.lower()
    if not is_entry_name(entry):
        raise DataError(
            f"{path}: {name!r:.80} cannot name an entry: letters, digits, '_', '.' and '-', "
            f"{_LONGEST} at most, and not {RESERVED_ENTRY}"
        )
    return entry


def file_entry(path: Path) -> str:
    """Return the name of a file's entry: the file's stem, in lower case.

    Each run of spaces and of other ASCII characters that an entry cannot have becomes ``-``. A name
    of other letters, or one that is too long or reserved, ends in eight digits of its hash, so that
    two such names differ.
    """
    stem = file_stem(path)
    entry = _UNSAFE.sub("-", stem.lower()).strip("-.")
    entry = entry.lstrip("_")
    if stem.isascii() and is_entry_name(entry):
        return entry
    digest = hashlib.sha256(stem.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGEST_DIGITS]
    return f"{entry[:_LONGEST_STEM].rstrip('-.') or 'file'}-{digest}"


def file_stem(path: Path) -> str:
    """Return the name of a file without the suffixes of its format and compression."""
    name = path.name
    if name.lower().endswith(".gz"):
        name = name[: -len(".gz")]
    return name.rpartition(".")[0] or name
