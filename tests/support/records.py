"""Records checked against the schema."""

import json
from pathlib import Path

from jsonschema import Draft202012Validator

from bench.record import SCHEMA_FILE

VALIDATOR = Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))


def valid_records(path: Path) -> list[dict]:
    """Every line of a record file, each of which must be a valid record."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        VALIDATOR.validate(record)
    return records
