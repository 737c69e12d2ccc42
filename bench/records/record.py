"""Records: one JSON object for each case that ran, one line each.

``record.schema.json`` is the schema. Everything else (tables, figures, gates, exports) is a view of
records. This module needs the standard library alone, so that anything may read them; checking
them against the schema takes one package more.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import StorageError
from refsys.files import parse_json

SCHEMA = "foldperf.record/1"
SCHEMA_FILE = Path(__file__).with_name("record.schema.json")
STATUSES = ("ok", "oom", "timeout", "crash", "unsupported", "blocked")

_BOM = b"\xef\xbb\xbf"
_JSON_TYPES = {str: "string", dict: "object"}

Record = dict[str, Any]


class RecordReading(NamedTuple):
    """Records of several files.

    Attributes:
        records: Valid ones, each once.
        errors: One for each file that has lines which are no records; its other lines are read.
    """

    records: list[Record]
    errors: list[StorageError]


def read_records(paths: Iterable[Path]) -> list[Record]:
    """Return the records of files, and of all ``.jsonl`` files below folders, in order.

    A line that is not a whole record (its writer was killed) is passed over.

    Raises:
        StorageError: a path does not exist or cannot be read.
    """
    lines = [line for file in _files(paths) for line in _lines(_read(file))]
    return [record for line in lines if (record := parse_record(line))]


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        yield from sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise StorageError(f"{file}: {error.strerror}") from None


def _lines(content: bytes) -> list[bytes]:
    """Return the lines of a file without its byte-order mark."""
    return content.removeprefix(_BOM).splitlines()


def read_valid_records(paths: Iterable[Path]) -> list[Record]:
    """Return the same for those who have the ``jsonschema`` package: each line is validated.

    The last line of a file may be torn, and lines may be blank. The first of several copies of a
    record is returned.

    Raises:
        StorageError: a path cannot be read, or a line is not a record; it names file and line.
    """
    reading = read_all_records(paths)
    if reading.errors:
        raise reading.errors[0]
    return reading.records


def read_all_records(paths: Iterable[Path]) -> RecordReading:
    """Return all valid records, and an error for each file that is damaged or cannot be read."""
    validate = record_validator()
    records: dict[str, Record] = {}
    errors: list[StorageError] = []
    for file in _files(paths):
        try:
            content = _read(file)
        except StorageError as error:
            errors.append(error)
            continue
        lines = _lines(content)
        if content and not content.endswith(b"\n") and parse_record(lines[-1]) is None:
            lines.pop()
        faults: list[str] = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = _record(line)
                validate(record)
            except ValueError as error:
                faults.append(f"line {number}: {' '.join(str(error).split())}")
            else:
                records.setdefault(record["run_id"], record)
        if faults:
            more = f"; and {len(faults) - 1} more lines" if len(faults) > 1 else ""
            errors.append(StorageError(f"{file}: {faults[0]}{more}"))
    return RecordReading(list(records.values()), errors)


def record_validator() -> Callable[[Record], None]:
    """Return a function that raises ValueError where a record is not as the schema says."""
    from jsonschema import Draft202012Validator, FormatChecker

    formats = FormatChecker(())
    formats.checks("date-time", raises=(ValueError, OverflowError))(_is_moment)
    schema = json.loads(SCHEMA_FILE.read_bytes())
    validator = Draft202012Validator(schema, format_checker=formats)

    def validate(record: Record) -> None:
        error = next(iter(validator.iter_errors(record)), None)
        if error is not None:
            where = ".".join(map(str, error.absolute_path)) or "record"
            raise ValueError(f"{where}: {' '.join(error.message.split()):.200}")

    return validate


def _is_moment(value: object) -> bool:
    """Return whether a value, if it is text, is a moment of ISO 8601 with its time zone."""
    if not isinstance(value, str):
        return True
    moment = datetime.fromisoformat(value)
    # As views have it: beyond the calendar's ends it fails.
    moment.timestamp()
    return moment.tzinfo is not None


def parse_record(line: bytes) -> Record | None:
    """Return the record in a line, or None if it is not a whole one of this schema."""
    try:
        return _record(line)
    except ValueError:
        return None


def _record(line: bytes) -> Record:
    """Return the record in a line.

    Raises:
        ValueError: it is not a whole one of this schema.
    """
    no_record = f"not a record of {SCHEMA}"
    try:
        record = parse_json(line)
    except ValueError as error:
        raise ValueError(f"{no_record}: {error}") from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ValueError(no_record)
    fields = (("key", str), ("run_id", str), ("git", dict), ("protocol", dict))
    for name, kind in fields:
        if not isinstance(record.get(name), kind):
            raise ValueError(f"{no_record}: {name} is not of type {_JSON_TYPES[kind]}")
    if record.get("status") not in STATUSES:
        raise ValueError(f"{no_record}: status is none of {', '.join(STATUSES)}")
    return record


def metric(record: Record, name: str) -> float | None:
    """The figure of a metric, or None if the record has none."""
    value = record.get("metrics", {}).get(name, {}).get("value")
    return None if value is None else float(value)
