"""The on-disk record: a folder of NumPy columns, read through memory maps.

``<name>/<column>.npy`` holds one array each and ``<name>/record.json`` names the kind, the format
version, facts about the record, and each column's dtype, shape and checksum. There is no
pickle anywhere. A record's name hashes everything that determines it, so that a changed source,
configuration or format is another record.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refsys.errors import DataError
from refsys.files import new_folder, parse_json, write_json

FORMAT_VERSION = 5
# Raised by JSON of another form than expected.
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, RecursionError, ArithmeticError)
_HEADER = "record.json"


def record_name(kind: str, sources: Mapping[str, Any]) -> str:
    """The name of the record that `sources` determine: 20 hexadecimal digits of SHA-256."""
    text = json.dumps([kind, FORMAT_VERSION, sources], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


@dataclass(frozen=True, slots=True)
class FixedText:
    """Text column of fixed width: blank to underscore (ASCII 32 to 95), of which names are made.

    Attributes:
        noun: A value of the column, as in ``atom name``.
        width: Largest number of characters.
    """

    noun: str
    width: int

    def normalized(self, text: str) -> str:
        """Return a value without blanks around it and in upper case.

        Text that is not ASCII is returned as it is: `fault` refuses it.
        """
        return text.strip(" ").upper() if text.isascii() else text

    def fault(self, text: str) -> str | None:
        """Return why the column cannot hold a value, None if it can."""
        if wrong := [letter for letter in text if not " " <= letter <= "_"]:
            return (
                f"{self.noun} {text!r:.40} has the character {wrong[0]!r}; rename it with "
                "letters, digits and other ASCII characters up to the underscore"
            )
        if not 0 < len(text) <= self.width:
            return (
                f"{self.noun} {text!r:.40} has {len(text)} characters; rename it with 1 to "
                f"{self.width}"
            )
        return None

    def array(self, values: Sequence[str]) -> NDArray[np.bytes_]:
        """Return values as bytes of the column's width.

        Raises:
            DataError: the column cannot hold one of them.
        """
        for text in dict.fromkeys(values):
            if fault := self.fault(text):
                raise DataError(fault)
        return np.array(values, f"S{self.width}")


ATOM_NAME = FixedText("atom name", 4)
COMPONENT = FixedText("component", 5)


def narrowed(values: Any, dtype: type[np.integer[Any]], noun: str) -> NDArray[Any]:
    """Return integers in a dtype that may be smaller than theirs.

    Args:
        values: Array or sequence of integers.
        dtype: Integer type of the column.
        noun: A value, as in ``formal charge``.

    Raises:
        DataError: a value is beyond the limits of the dtype.
    """
    array, limits = np.asarray(values), np.iinfo(dtype)
    outside = (array < limits.min) | (array > limits.max)
    if outside.any():
        value = array[outside].flat[0]
        raise DataError(f"{noun} {value} is not within {limits.min} and {limits.max}")
    return array.astype(dtype)


class Columns(Mapping[str, NDArray[Any]]):
    """An open record: read-only memory maps by column name, and what `record.json` says."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self.kind: str = header["kind"]
        self.facts: dict[str, Any] = dict(header["facts"])
        self._facts_sha256 = str(header["facts_sha256"])
        self._declared: dict[str, dict[str, Any]] = {
            str(name): {"dtype": c["dtype"], "shape": list(c["shape"]), "sha256": c["sha256"]}
            for name, c in header["columns"].items()
        }
        self._open: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._declared:
            raise DataError(f"{self.path}: no column {name}; delete it")
        if name not in self._open:
            self._open[name] = self._map(name)
        return self._open[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._declared)

    def __len__(self) -> int:
        return len(self._declared)

    def _map(self, name: str) -> NDArray[Any]:
        declared = self._declared[name]
        path = self.path / f"{name}.npy"
        try:
            array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # NumPy parses the header and raises unrelated classes
            reason = " ".join(str(error).split())
            raise DataError(f"{path}: damaged column ({reason}); delete {self.path}") from error
        if array.dtype.str != declared["dtype"] or list(array.shape) != declared["shape"]:
            raise DataError(
                f"{path}: holds {array.dtype.str} {list(array.shape)}, not the "
                f"{declared['dtype']} {declared['shape']} of its record; delete {self.path}"
            )
        return array

    def verify(self) -> None:
        """Reads every column and compares its checksum, and that of the facts.

        Raises:
            DataError: a column is missing, truncated or altered, or the facts are.
        """
        self.verify_facts()
        for name, declared in self._declared.items():
            if _checksum(self._map(name)) != declared["sha256"]:
                raise DataError(
                    f"{self.path / name}.npy: altered since it was written; delete {self.path}"
                )

    def verify_facts(self) -> None:
        """Compares the checksum of the facts alone.

        Raises:
            DataError: they are altered.
        """
        if _facts_checksum(self.facts) != self._facts_sha256:
            raise DataError(
                f"{self.path / _HEADER}: altered since it was written; delete {self.path}"
            )


def write_columns(
    path: Path, kind: str, columns: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]
) -> None:
    """Writes a record, whole or not at all.

    Args:
        path: The folder it becomes.
        kind: What it holds.
        columns: Arrays of fixed-size dtypes.
        facts: JSON values: provenance and small numbers.

    Raises:
        DataError: the folder cannot be written.
    """
    declared: dict[str, Any] = {}
    header = {
        "kind": kind,
        "format": FORMAT_VERSION,
        "facts": dict(facts),
        "facts_sha256": _facts_checksum(facts),
        "columns": declared,
    }
    try:
        with new_folder(path) as folder:
            for name, column in columns.items():
                array = np.ascontiguousarray(column)
                np.save(folder / f"{name}.npy", array, allow_pickle=False)
                declared[name] = {
                    "dtype": array.dtype.str,
                    "shape": list(array.shape),
                    "sha256": _checksum(array),
                }
            write_json(folder / _HEADER, header)
    except OSError as error:
        # NumPy says only how many bytes it was short of.
        reason = error.strerror or f"{error}; is the disk full?"
        raise DataError(f"{path}: cannot write the record: {reason}") from error


def open_columns(path: Path, kind: str) -> Columns:
    """Opens a record; its columns are mapped when first used.

    Raises:
        DataError: it is missing, unreadable, of another kind or of another format version.
    """
    try:
        header = parse_json((path / _HEADER).read_bytes())
        columns = Columns(path, header)
        found = (header["kind"], header["format"])
    except FileNotFoundError:
        raise DataError(f"{path}: no such record") from None
    except (OSError, *MALFORMED) as error:
        raise DataError(f"{path / _HEADER}: unreadable ({error}); delete {path}") from error
    if found != (kind, FORMAT_VERSION):
        raise DataError(
            f"{path}: a record of kind {found[0]!r}, format {found[1]!r}; "
            f"expected {kind!r}, format {FORMAT_VERSION}"
        )
    return columns


def _facts_checksum(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _checksum(array: NDArray[Any]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()
