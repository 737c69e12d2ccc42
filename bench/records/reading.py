"""Reading of record files: one JSON object a line, checked, and migrated from the earlier schema.

`read_records` checks the types of all fields and needs no package. `read_valid_records` and
`read_all_records` check the JSON Schema as well, with the ``jsonschema`` package.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from bench.errors import StorageError
from bench.records.migration import migrate
from bench.records.record import SCHEMA, Record, RecordJson
from refsys.files import parse_json

SCHEMA_FILE = Path(__file__).with_name("record.schema.json")

_BOM = b"\xef\xbb\xbf"


class RecordReading(NamedTuple):
    """Valid records of several files, and errors.

    Attributes:
        records: Valid records, without repetitions.
        errors: Error of each file with lines that are not records; its other lines are read.
    """

    records: list[Record]
    errors: list[StorageError]


def read_records(paths: Iterable[Path]) -> list[Record]:
    """Return the records of files, and of all ``.jsonl`` files below folders, in order.

    A line that is not a whole record (its writer was killed) is skipped.

    Raises:
        StorageError: A path does not exist or cannot be read.
    """
    lines = [line for file in _files(paths) for line in _lines(_read(file))]
    return [record for line in lines if (record := parse_record(line))]


def read_valid_records(paths: Iterable[Path]) -> list[Record]:
    """Return the records of files and folders, each line checked against the schema.

    The last line of a file may be torn, and lines may be blank. Repetitions of a record are left
    out.

    Raises:
        StorageError: A path cannot be read, or a line is not a record; it names file and line.
        ImportError: ``jsonschema`` is not installed.
    """
    reading = read_all_records(paths)
    if reading.errors:
        raise reading.errors[0]
    return reading.records


def read_all_records(paths: Iterable[Path]) -> RecordReading:
    """Return all valid records, and an error for each file that is damaged or cannot be read.

    Raises:
        ImportError: ``jsonschema`` is not installed.
    """
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
                table = _parse_table(line)
                validate(table)
                record = Record.from_dict(table)
            except ValueError as error:
                faults.append(f"line {number}: {' '.join(str(error).split())}")
            else:
                records.setdefault(record.run_id, record)
        if faults:
            more = f"; and {len(faults) - 1} more lines" if len(faults) > 1 else ""
            errors.append(StorageError(f"{file}: {faults[0]}{more}"))
    return RecordReading(list(records.values()), errors)


def parse_record(line: bytes) -> Record | None:
    """Return the record in a line, or None if the line is not a whole record."""
    try:
        return Record.from_dict(_parse_table(line))
    except ValueError:
        return None


def record_validator() -> Callable[[RecordJson], None]:
    """Return a function that raises ValueError if a JSON object does not conform to the schema.

    Raises:
        ImportError: ``jsonschema`` is not installed.
    """
    from jsonschema import Draft202012Validator, FormatChecker

    formats = FormatChecker(())
    formats.checks("date-time", raises=(ValueError, OverflowError))(_is_moment)
    schema = json.loads(SCHEMA_FILE.read_bytes())
    validator = Draft202012Validator(schema, format_checker=formats)

    def validate(table: RecordJson) -> None:
        error = next(iter(validator.iter_errors(table)), None)
        if error is not None:
            path = ".".join(map(str, error.absolute_path)) or "record"
            raise ValueError(f"{path}: {' '.join(error.message.split()):.200}")

    return validate


def _is_moment(value: object) -> bool:
    """Return True unless a value is text other than an ISO 8601 moment with its time zone."""
    if not isinstance(value, str):
        return True
    moment = datetime.fromisoformat(value)
    # Views compute the timestamp, which fails beyond the ends of the calendar.
    moment.timestamp()
    return moment.tzinfo is not None


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


def _parse_table(line: bytes) -> RecordJson:
    """Return the JSON object in a line, of the current schema.

    Raises:
        ValueError: The line is not a JSON object of this schema or the earlier one.
    """
    try:
        table = parse_json(line)
    except ValueError as error:
        raise ValueError(f"not a record of {SCHEMA}: {error}") from None
    if isinstance(table, dict):
        table = migrate(table)
    if not isinstance(table, dict) or table.get("schema") != SCHEMA:
        raise ValueError(f"not a record of {SCHEMA}")
    return table
