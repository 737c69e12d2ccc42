"""Figures of pytest-benchmark as records.

A benchmark describes its case with `describe_case` in its ``extra_info``, and the run its machine
with `describe_run` in its JSON; `read_records` joins both. ``tests/benchmark`` does so for the
timing cases of every workload. pytest-benchmark times whole steps in a process that all benchmarks
share; `foldperf run` isolates each case and measures the other metrics as well.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.devices import find_device
from bench.errors import UsageError
from bench.records import provenance
from bench.records.metrics import METRICS, Value, Values, as_json, from_samples, missing
from bench.records.reading import record_validator
from bench.records.record import SCHEMA, Record, RecordJson
from bench.run.sweep import Case, digest
from refsys.data.store.columns import MALFORMED
from refsys.files import parse_json
from workloads.workload import Catalogue

SWEEP = "pytest-benchmark"
# Key of both descriptions in the JSON.
NAME = "foldperf"
_METHOD = "pytest-benchmark, median of rounds"
_SHARED = "in a process with other benchmarks"


@functools.cache
def _device() -> Any:
    return find_device()


def synchronized_time() -> float:
    """Return the time once all work on the device is done, as a timer of pytest-benchmark."""
    _device().synchronize()
    return perf_counter()


def describe_case(case: Case, catalogue: Catalogue, store: Path) -> dict[str, Any]:
    """Return the description of a case as JSON, for a benchmark's ``extra_info``.

    Raises:
        WorkloadError: Inputs of the case are missing.
    """
    workload = catalogue[case.workload]
    facts = asdict(workload.static_costs(case.config))
    description = {
        "workload": {
            "name": case.workload,
            "config": case.axes,
            "config_sha256": digest([case.workload, case.axes]),
            "labels": workload.labels(case.config),
            "inputs": workload.inputs(case.config, store),
            "source_sha256": provenance.foreign_sha256(type(workload).__module__),
            "ranks": 1,
        },
        "seed": case.seed,
        "device": find_device(case.device).describe().as_json(),
        "facts": facts | {"notes": list(facts["notes"])},
    }
    # pytest-benchmark would silently replace values that JSON cannot hold by text.
    table: dict[str, Any] = json.loads(json.dumps(description, allow_nan=False))
    return table


def describe_run() -> dict[str, Any]:
    """Return the description of source, machine and software as JSON."""
    return provenance.origin().as_dict()


def read_records(path: Path) -> list[Record]:
    """Return the records of a file that pytest-benchmark wrote.

    Raises:
        UsageError: The file cannot be read, or a benchmark in it has no description of its case or
            an invalid one.
        ImportError: ``jsonschema`` is not installed.
    """
    validate = record_validator()
    try:
        file = parse_json(path.read_bytes())
        run, version = file[NAME], str(file["version"])
        tables = [
            _record_table(benchmark, run, str(file["datetime"]), version, index)
            for index, benchmark in enumerate(file["benchmarks"])
        ]
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except KeyError as error:
        raise UsageError(
            f"{path}: there is no {error}; benchmarks of tests/benchmark say what they timed"
        ) from None
    except MALFORMED as error:
        raise UsageError(f"{path}: not of pytest-benchmark: {error}") from None
    records = []
    for index, table in enumerate(tables, start=1):
        try:
            validate(table)
            records.append(Record.from_dict(table))
        except ValueError as error:
            raise UsageError(f"{path}: benchmark {index}: {error}") from None
    return records


def _record_table(
    benchmark: Mapping[str, Any], run: Mapping[str, Any], at: str, version: str, index: int
) -> RecordJson:
    """Return the record of a benchmark as JSON: what the file says is not checked yet.

    Args:
        benchmark: Entry of the benchmark in the file.
        run: Description of the run, see `describe_run`.
        at: Time of the run.
        version: Version of pytest-benchmark.
        index: Position of the benchmark in the file.
    """
    case, stats = benchmark["extra_info"][NAME], benchmark["stats"]
    workload, device = case["workload"], case["device"]
    cell = digest([workload["name"], workload["config"], 1, device["kind"]])
    values: Values = dict.fromkeys(METRICS, missing("pytest-benchmark times steps alone"))
    values["step_time_s"] = _step_time(stats)
    # The same benchmark of the same run is the same record, however often it is imported.
    identity = json.dumps([at, benchmark["fullname"], cell, stats["median"]]).encode()
    identity_sha256 = hashlib.sha256(identity).hexdigest()
    return {
        "schema": SCHEMA,
        "run_id": identity_sha256[:32],
        "key": identity_sha256[-20:],
        "cell_id": cell,
        "sweep": SWEEP,
        "replicate": 0,
        "status": "ok",
        "reason": None,
        "started_at": at,
        "duration_s": float(stats["total"]),
        "workload": workload,
        "facts": case["facts"],
        **{name: run[name] for name in ("git", "source_sha256", "host")},
        "devices": [device],
        **{name: run[name] for name in ("software", "environment")},
        "protocol": {
            "seed": case["seed"],
            "order_index": index,
            "warmup_steps": case.get("warmup_steps"),
            "timed_steps": int(stats["rounds"]),
            "counts": False,
            **dict.fromkeys(("energy_s", "timeout_s", "timeout_factor", "memory_limit_bytes")),
            "watched_resident_bytes": None,
            "harness": f"pytest-benchmark {version}",
        },
        "metrics": as_json(values),
        "telemetry": {},
        "outcome": {},
        "breakdown": {},
        "notes": {},
    }


def _step_time(stats: Mapping[str, Any]) -> Value:
    """Return the step time from all rounds if the file has them; a round may hold several steps."""
    if samples := [float(sample) for sample in stats.get("data") or ()]:
        return from_samples(samples, _METHOD, (_SHARED,))
    return Value(float(stats["median"]), _METHOD, n=int(stats["rounds"]), flags=(_SHARED,))
