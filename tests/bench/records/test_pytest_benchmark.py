"""Benchmarks under pytest-benchmark, and the import of their figures into records."""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
from support.records import valid_records

from bench.cli import main
from bench.records.metrics import METRICS
from bench.records.pytest_benchmark import read_records, synchronized_time
from refsys.ops.backend import OPERATORS
from workloads.catalogue import catalogue

ROOT = Path(__file__).resolve().parents[3]
BENCHMARKS = ROOT / "tests" / "benchmark"
CHEAP = "dropout_residual or (layer_norm and not layer_norm_linear and not adaptive)"


def run_pytest(*options, folder):
    # A benchmark does not inherit the workers of the suite.
    outside = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", BENCHMARKS, "-q", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env=outside | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run of two operators: the file that pytest-benchmark wrote."""
    folder = tmp_path_factory.mktemp("benchmarks")
    run_pytest("-k", CHEAP, "--benchmark-json", folder / "steps.json", folder=folder)
    return folder / "steps.json"


def test_every_operator_and_every_workload_is_benchmarked(tmp_path):
    collected = run_pytest("--collect-only", folder=tmp_path)
    for operator in OPERATORS:
        assert f"operator={operator} " in collected
    for workload in catalogue().workloads:
        assert f"test_step[{workload} " in collected


def test_import_turns_figures_into_valid_records_once(written, tmp_path, capsys):
    for added in (2, 0):
        assert main(["import", "pytest-benchmark", str(written), "--results", str(tmp_path)]) == 0
        assert capsys.readouterr().out.startswith(f"{added} records added to ")
    records = valid_records(tmp_path / "runs" / "pytest-benchmark" / "records.jsonl")
    benchmarks = json.loads(written.read_text(encoding="utf-8"))["benchmarks"]
    assert len(records) == len(benchmarks) == 2
    for record, benchmark in zip(records, benchmarks, strict=True):
        found = record["metrics"]["step_time_s"]
        assert found["samples"] == benchmark["stats"]["data"]
        assert found["value"] == median(found["samples"])
        assert found["value"] == pytest.approx(benchmark["stats"]["median"])
        assert record["workload"]["config"]["operator"] in benchmark["name"]
        missing = {name for name, value in record["metrics"].items() if value["value"] is None}
        assert missing == set(METRICS) - {"step_time_s"}


def test_imported_records_have_the_cells_of_foldperf_run(written, tmp_path):
    """Views can then show both beside each other."""
    from bench.run.runner import Runner
    from bench.run.sweep import read_sweep

    path = tmp_path / "s.toml"
    path.write_text(
        '[[case]]\nworkload = "operators"\n'
        'axes = { operator = ["dropout_residual", "layer_norm"], preset = "mini", tokens = 64 }\n',
        encoding="utf-8",
    )
    sweep = read_sweep(path, catalogue())
    runner = Runner(sweep, tmp_path, tmp_path, catalogue())
    assert {record.cell_id for record in read_records(written)} == {
        runner.cell_id(case) for case in sweep.cases
    }


def test_file_without_samples_gives_its_median(written, tmp_path):
    table = json.loads(written.read_text(encoding="utf-8"))
    del table["benchmarks"][0]["stats"]["data"]
    path = tmp_path / "b.json"
    path.write_text(json.dumps(table), encoding="utf-8")
    record, _ = read_records(path)
    assert record.value("step_time_s") == table["benchmarks"][0]["stats"]["median"]


def foreign(table):
    table["benchmarks"][0]["extra_info"] = {}


def without_a_run(table):
    del table["foldperf"]


def not_finite(table):
    table["benchmarks"][0]["stats"]["data"][0] = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (foreign, "there is no 'foldperf'; benchmarks of tests/benchmark say what they timed"),
        (without_a_run, "there is no 'foldperf'"),
        (not_finite, "not of pytest-benchmark: NaN is not JSON"),
        (lambda table: table.update(benchmarks=3), "not of pytest-benchmark: "),
    ],
)
def test_other_files_are_refused_in_one_line(written, tmp_path, capsys, change, message):
    table = json.loads(written.read_text(encoding="utf-8"))
    change(table)
    path = tmp_path / "b.json"
    path.write_text(json.dumps(table), encoding="utf-8")
    assert main(["import", "pytest-benchmark", str(path), "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_missing_file_is_an_error_of_one_line(tmp_path, capsys):
    assert main(["import", "pytest-benchmark", str(tmp_path / "none.json")]) == 2
    assert "none.json: No such file" in capsys.readouterr().err


def test_timer_waits_for_the_device(monkeypatch):
    from bench.records import pytest_benchmark

    waited = []

    class Device:
        def synchronize(self):
            waited.append(True)

    monkeypatch.setattr(pytest_benchmark, "_device", Device)
    assert synchronized_time() < synchronized_time()
    assert len(waited) == 2
