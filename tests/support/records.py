"""Records that are validated against the schema."""

import json
from copy import deepcopy
from pathlib import Path

from jsonschema import Draft202012Validator

from bench.records.reading import SCHEMA_FILE
from bench.records.record import SCHEMA, Record

GIT = {
    **{"sha": "0" * 40, "dirty": False, "diff_sha256": None, "commit_time": None},
    "reason": None,
}


def a_record(number: int, status: str = "oom", **more) -> dict:
    """Return a valid record as JSON, of a case that ran out of memory unless a status is given."""
    name = f"{number:020x}"
    labels = {"tokens": 8, "series": "toy", "variant": "", "synthetic": False}
    empty = {part: {} for part in ("metrics", "telemetry", "outcome", "breakdown", "notes")}
    versions = ("python", "torch", "triton", "numpy", "cuda", "rocm", "nccl", "packages_sha256")
    device = ("memory_bytes", "uuid_hash", "driver", "vbios", "power_cap_w", "partition", "ecc")
    device += ("energy_domain", "energy_scope")
    record = {
        "schema": SCHEMA,
        "run_id": f"{number:032x}",
        "key": name,
        "cell_id": name,
        "sweep": "toy",
        "replicate": 0,
        "status": status,
        "reason": None if status == "ok" else "it grew",
        "started_at": "2026-01-01T00:00:00.000+00:00",
        "duration_s": 1.5,
        "workload": {
            **{"name": "toy", "config": {"tokens": 8}, "config_sha256": name, "labels": labels},
            **{"inputs": {}, "source_sha256": None, "ranks": 1},
        },
        "facts": None,
        "git": GIT,
        "source_sha256": "0" * 64,
        "host": {
            **{"os": "Linux", "cpu": "a cpu", "cores": 2, "memory_bytes": 2**34},
            **{"cgroup_cores": None, "cgroup_memory_bytes": None},
            **{"hostname_hash": "h", "container": False},
        },
        "devices": [
            {"vendor": "none", "name": "a cpu", "kind": "cpu"} | dict.fromkeys(device),
        ],
        "software": dict.fromkeys(versions),
        "environment": {},
        "protocol": {
            **{"seed": 0, "order_index": 0, "warmup_steps": 1, "timed_steps": 1, "counts": True},
            **{"energy_s": 1.0, "timeout_s": 1.0, "memory_limit_bytes": 1},
            **{"timeout_factor": None, "watched_resident_bytes": 1, "harness": None},
        },
        **empty,
    } | more
    VALIDATOR.validate(record)
    # A test that changes a part of it changes no other record.
    return deepcopy(record)


VALIDATOR = Draft202012Validator(json.loads(SCHEMA_FILE.read_text(encoding="utf-8")))


def valid_records(path: Path) -> list[dict]:
    """Return the lines of a record file as JSON; each must be a valid record."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for record in records:
        VALIDATOR.validate(record)
    return records


def parsed(record: dict) -> Record:
    """Return a record from its JSON."""
    return Record.from_dict(record)
