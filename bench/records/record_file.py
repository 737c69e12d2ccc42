"""File that a sweep's records are appended to, by one process at a time."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from bench.errors import StorageError
from bench.records.reading import parse_record, read_records
from bench.records.record import Record
from refsys.files import write_atomically, write_json

# Name of the file in the folder of a sweep.
RECORDS = "records.jsonl"


def write_alone(path: Path, record: dict[str, Any]) -> Path:
    """Write a record that is a file of its own, and return its path.

    Raises:
        StorageError: The file cannot be written.
    """
    try:
        write_json(path, record)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from None
    return path


class RecordFile:
    """Append-only JSON Lines: each record is written whole and flushed, or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    @contextmanager
    def locked(self) -> Iterator[Self]:
        """Lock the file for this process, and drop the incomplete line of a killed writer.

        Raises:
            StorageError: The folder cannot be written, or another process has locked it.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path.parent / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise StorageError(f"{self.path.parent}: {error.strerror}") from None
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StorageError(f"{self.path.parent}: another run is writing here") from None
            self._open()
            self._drop_torn_line()
            yield self
        finally:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
            os.close(lock)

    def append(self, record: Record) -> None:
        """Write one record and flush it to disk.

        Raises:
            StorageError: The disk is full or gone; the file is unchanged.
            ValueError: A number of the record is not finite.
        """
        line = json.dumps(record.as_dict(), allow_nan=False, separators=(",", ":")).encode() + b"\n"
        size = os.fstat(self._descriptor).st_size
        try:
            while line:
                # A disk that fills up takes a part; the next attempt names the error.
                line = line[os.write(self._descriptor, line) :]
            os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, size)
            raise StorageError(
                f"{self.path}: a record cannot be written: {error.strerror}; "
                "earlier ones are intact, run again to go on"
            ) from None

    def records(self) -> list[Record]:
        """Return the records of the file."""
        return read_records([self.path])

    def forget(self, unwanted: Callable[[Record], bool]) -> int:
        """Drop records, so that their cases run again; return their number.

        Raises:
            StorageError: The remaining records cannot be written; the file is unchanged.
        """
        lines = self.path.read_bytes().splitlines(keepends=True)
        remaining = [
            line for line in lines if (record := parse_record(line)) is None or not unwanted(record)
        ]
        if len(remaining) < len(lines):
            try:
                write_atomically(self.path, b"".join(remaining))
            except OSError as error:
                raise StorageError(
                    f"{self.path}: records cannot be dropped: {error.strerror}; they are intact"
                ) from None
            os.close(self._descriptor)
            self._descriptor = -1
            self._open()
        return len(lines) - len(remaining)

    def _open(self) -> None:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
            self._descriptor = os.open(self.path, flags, 0o666)
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror}") from None

    def _drop_torn_line(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole == len(content):
            return
        if parse_record(content[whole:]):
            # Only the line's end is missing, as an editor may leave it.
            os.write(self._descriptor, b"\n")
        else:
            os.ftruncate(self._descriptor, whole)
