"""Records: one JSON object for each case that ran, one line each.

``record.schema.json`` is the schema. Everything else (tables, figures, gates, exports) is a view of
records. This module needs the standard library alone, so that anything may read them.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.errors import StorageError

SCHEMA = "foldperf.record/1"
SCHEMA_FILE = Path(__file__).with_name("record.schema.json")
STATUSES = ("ok", "oom", "timeout", "crash", "unsupported", "blocked")

Record = dict[str, Any]


def read_records(paths: Iterable[Path]) -> list[Record]:
    """Records of files, and of all ``.jsonl`` files below folders, in order.

    A line that is not a whole record (its writer was killed) is passed over.

    Raises:
        StorageError: a path does not exist or cannot be read.
    """
    records = []
    for path in paths:
        for file in sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]:
            try:
                lines = file.read_bytes().splitlines()
            except OSError as error:
                raise StorageError(f"{file}: {error.strerror}") from None
            records += [record for line in lines if (record := parse_record(line))]
    return records


def parse_record(line: bytes) -> Record | None:
    """The record in a line, or None if it is not a whole one of this schema."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(record, dict) and record.get("schema") == SCHEMA and "key" in record
    return record if whole else None


def metric(record: Record, name: str) -> float | None:
    """The figure of a metric, or None if the record has none."""
    value = record.get("metrics", {}).get(name, {}).get("value")
    return None if value is None else float(value)
