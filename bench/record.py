"""Records: one JSON object for each case that ran, one line each.

``record.schema.json`` is the schema. Everything else (tables, figures, gates, exports) is a view of
records. This module needs the standard library alone, so that anything may read them; checking
them against the schema takes one package more.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bench.errors import StorageError

SCHEMA = "foldperf.record/1"
SCHEMA_FILE = Path(__file__).with_name("record.schema.json")
STATUSES = ("ok", "oom", "timeout", "crash", "unsupported", "blocked")

# Digits of the largest integer that a record may hold: FLOPs have twenty at most.
_LONGEST_INT = 24

Record = dict[str, Any]


def read_records(paths: Iterable[Path]) -> list[Record]:
    """Records of files, and of all ``.jsonl`` files below folders, in order.

    A line that is not a whole record (its writer was killed) is passed over.

    Raises:
        StorageError: a path does not exist or cannot be read.
    """
    lines = [line for file in _files(paths) for line in _read(file).splitlines()]
    return [record for line in lines if (record := parse_record(line))]


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        yield from sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise StorageError(f"{file}: {error.strerror}") from None


def read_valid_records(paths: Iterable[Path]) -> list[Record]:
    """The same for those who have the ``jsonschema`` package: every line is held to the schema.

    The last line of a file may be torn. Of several copies of one record, the first is given.

    Raises:
        StorageError: a path cannot be read, or a line is not a record; it names file and line.
    """
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(json.loads(SCHEMA_FILE.read_bytes()))
    records: dict[str, Record] = {}
    for file in _files(paths):
        content = _read(file)
        lines = content.splitlines()
        torn = bool(content) and not content.endswith(b"\n")
        for number, line in enumerate(lines, start=1):
            record = parse_record(line)
            if record is None:
                if torn and number == len(lines):
                    continue
                raise StorageError(f"{file}: line {number}: not a record of {SCHEMA}")
            error = next(iter(validator.iter_errors(record)), None)
            if error is not None:
                where = ".".join(map(str, error.absolute_path)) or "record"
                what = " ".join(error.message.split())
                raise StorageError(f"{file}: line {number}: {where}: {what:.200}")
            records.setdefault(record["run_id"], record)
    return list(records.values())


def parse_record(line: bytes) -> Record | None:
    """The record in a line, or None if it is not a whole one of this schema."""
    try:
        record = json.loads(line, parse_constant=_refuse, parse_int=_parse_int)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        return None
    fields = (("key", str), ("run_id", str), ("git", dict), ("protocol", dict))
    if not all(isinstance(record.get(name), kind) for name, kind in fields):
        return None
    return record if record.get("status") in STATUSES else None


def _refuse(text: str) -> None:
    raise ValueError(f"{text} in a record")


def _parse_int(text: str) -> int:
    if len(text) > _LONGEST_INT:
        _refuse("a number of absurd length")
    return int(text)


def metric(record: Record, name: str) -> float | None:
    """The figure of a metric, or None if the record has none."""
    value = record.get("metrics", {}).get(name, {}).get("value")
    return None if value is None else float(value)
