"""The project's own JSON files, to be damaged by fuzzing, with their readers."""

import json
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from analysis.frame import frame
from analysis.nested import metric_values
from analysis.published import published_table, read_published
from analysis.table import as_csv, as_parquet, exported, newest, rows
from bench.asv.export import export
from bench.gate.exact.comparison import BASELINE, read_baseline
from bench.records import provenance
from bench.records.pytest_benchmark import read_records as read_pytest_benchmark
from bench.records.reading import parse_record, read_valid_records
from bench.records.record import Record
from refsys.ops import tuning
from refsys.ops.tuning import Key, TuningWarning
from refsys.training.log import LOG, logged
from support.records import GIT, VALIDATOR, a_record
from workloads.catalogue import catalogue

ROOT = Path(__file__).resolve().parents[2]
_MEASURED = ROOT / "results" / "recorded" / "demo-2-core-cpu.jsonl"
_RECORDS = 4
_KEY = Key("transition.forward", "sm_90", "float32", "16x128")
_OPTIONS = {"BLOCK_ROWS": 32, "num_warps": 4}
_STEP = {
    "step": 0,
    "loss": 1.5,
    "losses": {"diffusion": 1.5},
    "seconds": {"forward": 0.1},
    "drawn": ["1ubq A"],
}

Reader = Callable[[Path], object]


def record_files() -> list[tuple[bytes, Reader]]:
    """Return a file of measured records, with a reader that makes tables and asv's files."""
    lines = _MEASURED.read_bytes().splitlines()[:_RECORDS]
    failed = json.dumps(a_record(1, git=GIT | {"commit_time": "2026-01-01T00:00:00+00:00"}))
    content = b"\n".join([*lines, failed.encode()]) + b"\n"
    return [(content, _read_record_file)]


def other_files() -> list[tuple[bytes, Reader]]:
    """Return a file of each other kind, except those of a store, with its reader."""
    published = ROOT / "results" / "published" / "megafold.json"
    return [
        (published.read_bytes(), _read_published_file),
        (_a_baseline(), read_baseline),
        (_a_tuned_table(), _read_tuned_table),
        (_a_stamp(), _read_stamp),
        (_a_pytest_benchmark(), read_pytest_benchmark),
        (json.dumps(_STEP).encode() + b"\n", _read_log),
        (_asv_results(), _export_beside),
    ]


def _read_record_file(path: Path) -> None:
    records = read_valid_records([path])
    table = newest(frame(records))
    assert len(rows(table)) == len(table)
    for form in (exported(table), metric_values(table)):
        as_csv(form).encode("utf-8")
        as_parquet(form)
    out = path.with_name("asv")
    shutil.rmtree(out, ignore_errors=True)
    done = export(records, out, catalogue())
    if done.errors:
        raise done.errors[0]


def _read_published_file(path: Path) -> None:
    folder = path.with_name("published")
    folder.mkdir(exist_ok=True)
    shutil.copy(path, folder / "damaged.json")
    published_table(read_published(folder))


def _a_baseline() -> bytes:
    table = json.loads(BASELINE.read_bytes())
    title = min(table["cases"], key=lambda name: len(json.dumps(table["cases"][name])))
    return json.dumps(table | {"cases": {title: table["cases"][title]}}).encode()


def _a_tuned_table() -> bytes:
    table = {"format": tuning.FORMAT, **_KEY._asdict(), "options": _OPTIONS, "best_s": 1e-5}
    return json.dumps(table).encode()


def _read_tuned_table(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", TuningWarning)
        options = tuning.read_options(path, _KEY, tuple(sorted(_OPTIONS)))
    assert options is None or all(isinstance(value, int) for value in options.values())


def _a_stamp() -> bytes:
    return json.dumps(asdict(provenance.git_state()) | {"source_sha256": "0" * 64}).encode()


def _read_stamp(path: Path) -> None:
    """Read a stamp; its content must give valid records."""
    tree = path.with_name("stamped")
    tree.mkdir(exist_ok=True)
    shutil.copy(path, tree / provenance.STAMP)
    VALIDATOR.validate(a_record(1) | {"git": asdict(provenance.git_state(tree))})


def _a_pytest_benchmark() -> bytes:
    record = a_record(1)
    case = {
        "workload": record["workload"],
        "device": record["devices"][0],
        "facts": None,
        "seed": 0,
        "warmup_steps": 1,
    }
    run = {name: record[name] for name in ("git", "source_sha256", "host", "software")}
    facts = _first_recorded().as_dict()["facts"]
    stats = {"total": 1.0, "median": 0.5, "rounds": 2, "data": [0.5, 0.5]}
    benchmark = {
        "fullname": "tests/benchmark/test_step.py::test_step",
        "extra_info": {"foldperf": case | {"facts": facts}},
        "stats": stats,
    }
    table = {
        "foldperf": run | {"environment": {}},
        "version": "5.2.0",
        "datetime": "2026-01-01T00:00:00.000000+00:00",
        "benchmarks": [benchmark],
    }
    return json.dumps(table).encode()


def _read_log(path: Path) -> object:
    folder = path.with_name("run")
    folder.mkdir(exist_ok=True)
    shutil.copy(path, folder / LOG)
    return logged(folder, 0)


def _first_recorded() -> Record:
    """Return the first record of the measured ones."""
    record = parse_record(_MEASURED.read_bytes().splitlines()[0])
    assert record
    return record


def _asv_results() -> bytes:
    """Return a result file of asv, as `export` writes it."""
    with tempfile.TemporaryDirectory() as folder:
        (path,) = export([_first_recorded()], Path(folder), catalogue()).files
        return path.read_bytes()


def _export_beside(path: Path) -> None:
    """Export the same records into the folder of the damaged file."""
    out = path.with_name("asv-results")
    if not out.exists():
        export([_first_recorded()], out, catalogue())
    (stored,) = (each for each in out.glob("*/*.json") if each.name != "machine.json")
    sound = stored.read_bytes()
    shutil.copy(path, stored)
    try:
        done = export([_first_recorded()], out, catalogue())
        if done.errors:
            raise done.errors[0]
    finally:
        stored.write_bytes(sound)
