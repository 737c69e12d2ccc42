"""On-disk record: a folder of NumPy columns, read through memory maps.

``<name>/<column>.npy`` holds one array each and ``<name>/record.json`` the kind, the format
version, facts about the record, and each column's dtype, shape and checksum. Nothing is pickled. A
record's name hashes everything that determines it, so that changing its source, configuration or
format changes its name.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refsys.errors import DataError
from refsys.files import new_folder, parse_json, write_json

FORMAT_VERSION = 5
# Exceptions that JSON of an unexpected form raises.
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, RecursionError, ArithmeticError)
_HEADER = "record.json"


def record_name(kind: str, sources: Mapping[str, Any]) -> str:
    """Return the name of the record that `sources` determine: 20 hexadecimal digits of SHA-256."""
    text = json.dumps([kind, FORMAT_VERSION, sources], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


@dataclass(frozen=True, slots=True)
class FixedText:
    """Text column of fixed width, of the characters from blank to underscore (ASCII 32 to 95).

    Attributes:
        noun: Name of a value in messages, as in ``atom name``.
        width: Largest number of characters.
    """

    noun: str
    width: int

    def normalized(self, text: str) -> str:
        """Return a value in upper case, without blanks around it.

        Text that is not ASCII is returned unchanged: `fault` refuses it.
        """
        return text.strip(" ").upper() if text.isascii() else text

    def fault(self, text: str) -> str | None:
        """Return the reason why the column cannot hold a value, None if it can."""
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
    """Convert integers to a dtype that may be narrower.

    Args:
        values: Array or sequence of integers.
        dtype: Integer type of the column.
        noun: Name of a value in messages, as in ``formal charge``.

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
    """An open record: read-only memory maps by column name, and the facts in `record.json`."""

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
        """Read every column and compare its checksum, and that of the facts.

        Raises:
            DataError: a column is missing, truncated or altered, or the facts are altered.
        """
        self.verify_facts()
        for name, declared in self._declared.items():
            if _checksum(self._map(name)) != declared["sha256"]:
                raise DataError(
                    f"{self.path / name}.npy: altered since it was written; delete {self.path}"
                )

    def verify_facts(self) -> None:
        """Compare the checksum of the facts alone.

        Raises:
            DataError: the facts are altered.
        """
        if _facts_checksum(self.facts) != self._facts_sha256:
            raise DataError(
                f"{self.path / _HEADER}: altered since it was written; delete {self.path}"
            )


def write_columns(
    path: Path, kind: str, columns: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]
) -> None:
    """Write a record atomically.

    Args:
        path: Folder of the record.
        kind: Kind of the record.
        columns: Arrays of fixed-size dtypes.
        facts: JSON values: provenance and small numbers.

    Raises:
        DataError: the folder cannot be written.
    """
    arrays = {name: np.ascontiguousarray(column) for name, column in columns.items()}
    try:
        with new_folder(path) as folder:
            for name, array in arrays.items():
                np.save(folder / f"{name}.npy", array, allow_pickle=False)
            _write_header(folder, kind, arrays, facts)
    except OSError as error:
        # NumPy's error has no errno, only the number of missing bytes.
        reason = error.strerror or f"{error}; is the disk full?"
        raise DataError(f"{path}: cannot write the record: {reason}") from error


def allocate_columns(folder: Path, lengths: Mapping[str, tuple[np.dtype[Any], int]]) -> None:
    """Create columns of one axis, for several processes to write into.

    Args:
        folder: Folder that exists; it is a record once `write_header` has completed it.
        lengths: Dtype and number of values of each column.
    """
    for name, (dtype, length) in lengths.items():
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (length,))


def write_values(folder: Path, column: str, parts: Iterable[tuple[int, NDArray[Any]]]) -> None:
    """Write parts of an allocated column, and flush them to disk.

    Args:
        folder: Folder of the column.
        column: Name of the column.
        parts: Index of the first value, and values of the dtype of the column.
    """
    path = folder / f"{column}.npy"
    offset = np.load(path, mmap_mode="r", allow_pickle=False).offset
    # Not through a map: processes on several machines would write whole pages.
    with path.open("r+b") as file:
        for start, values in parts:
            file.seek(offset + start * values.itemsize)
            file.write(values.tobytes())
        file.flush()
        os.fsync(file.fileno())


def write_header(folder: Path, kind: str, names: Iterable[str], facts: Mapping[str, Any]) -> None:
    """Complete a record whose columns are written.

    Args:
        folder: Folder of the record.
        kind: Kind of the record.
        names: Names of its columns.
        facts: JSON values: provenance and small numbers.
    """
    columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}
    _write_header(folder, kind, columns, facts)


def _write_header(
    folder: Path, kind: str, columns: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]
) -> None:
    header = {
        "kind": kind,
        "format": FORMAT_VERSION,
        "facts": dict(facts),
        "facts_sha256": _facts_checksum(facts),
        "columns": {
            name: {
                "dtype": column.dtype.str,
                "shape": list(column.shape),
                "sha256": _checksum(column),
            }
            for name, column in columns.items()
        },
    }
    write_json(folder / _HEADER, header)


def open_columns(path: Path, kind: str) -> Columns:
    """Open a record; its columns are mapped when first used.

    Raises:
        DataError: the record is missing, unreadable, of another kind or of another format version.
    """
    try:
        header = parse_json((path / _HEADER).read_bytes())
        columns = Columns(path, header)
        identity = (header["kind"], header["format"])
    except FileNotFoundError:
        raise DataError(f"{path}: no such record") from None
    except (OSError, *MALFORMED) as error:
        raise DataError(f"{path / _HEADER}: unreadable ({error}); delete {path}") from error
    if identity != (kind, FORMAT_VERSION):
        raise DataError(
            f"{path}: a record of kind {identity[0]!r}, format {identity[1]!r}; "
            f"expected {kind!r}, format {FORMAT_VERSION}"
        )
    return columns


def _facts_checksum(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _checksum(array: NDArray[Any]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()
