"""Cases without a measurement: tried again where that helps, and named with the command."""

import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from support.measured import measured
from support.records import valid_records

import bench.run.runner
import bench.run.time_limits
from bench.cli import main, options
from bench.run.isolation import Ended
from bench.run.time_limits import REFERENCE_S
from workloads.workload import StaticCosts

ROOT = Path(__file__).resolve().parents[3]
SWEEP = """
[protocol]
order = "listed"
timeout_s = 300
[[case]]
workload = "operators"
axes = { operator = "layer_norm", preset = "tiny", tokens = [8, 16, 24] }
"""
TITLE = "operators operator=layer_norm preset=tiny tokens="
SLOW = REFERENCE_S * 4


class Machine:
    """Stand-in for case processes: a case needs scripted seconds, or ends in another way.

    Attributes:
        cases: Seconds that a case needs, or the status it ends with, by tokens.
        slowness: Seconds of the calibrating workload, time after time; the last stays.
        limits: The limit of every process that was started.
    """

    def __init__(self):
        self.cases = {8: 1.0, 16: 1.0, 24: 1.0}
        self.slowness = [REFERENCE_S]
        self.limits = []

    def workload(self):
        return self.slowness.pop(0) if len(self.slowness) > 1 else self.slowness[0]

    def run_isolated(self, command, *, timeout_s, **_):
        self.limits.append(timeout_s)
        request, result = command[-2:]
        needs = self.cases[
            json.loads(Path(request).read_text(encoding="utf-8"))["config"]["tokens"]
        ]
        if needs == "interrupt":
            raise KeyboardInterrupt
        if not isinstance(needs, str) and needs > timeout_s:
            return Ended(-9, "timeout", timeout_s, 0, "")
        content = {"status": needs, "reason": "it did"}
        if not isinstance(needs, str):
            content = {"status": "ok", "reason": None} | PARTS
        Path(f"{result}.0").write_text(json.dumps(content), encoding="utf-8")
        return Ended(0, None, 1.0, 0, "")


FACTS = StaticCosts(
    parameters=1,
    components={},
    forward_flops=1,
    forward_flops_by_component={},
    step_flops=1,
    arithmetic="float32",
    minimum_bytes=1,
)
PARTS = {
    "metrics": measured(8)["metrics"],
    "facts": asdict(FACTS) | {"notes": []},
    **{part: {} for part in ("telemetry", "outcome", "breakdown", "notes")},
}


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    monkeypatch.setattr(bench.run.runner, "run_isolated", machine.run_isolated)
    monkeypatch.setattr(bench.run.time_limits, "fixed_workload", machine.workload)
    return machine


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "s.toml").write_text(SWEEP, encoding="utf-8")
    return tmp_path


@pytest.fixture
def run(folder, capsys):
    """Run the sweep; return the status and the lines printed."""

    def run(*words):
        places = ["--results", str(folder / "results"), "--store", str(folder / "store")]
        status = main(["run", str(folder / "s.toml"), *places, *words])
        return status, capsys.readouterr().out.splitlines()

    return run


def records_of(folder):
    records = valid_records(folder / "results/runs/s/records.jsonl")
    return {record["workload"]["config"]["tokens"]: record for record in records}


def test_slow_case_is_measured_when_the_machine_is_slow(machine, run, folder):
    machine.slowness = [SLOW]
    machine.cases[16] = 900.0
    status, lines = run()
    assert status == 0
    assert lines[-1].startswith("3 ok; 3 ran now")
    protocol = records_of(folder)[16]["protocol"]
    assert (protocol["timeout_s"], protocol["timeout_factor"]) == (300.0, pytest.approx(4.0))


def test_case_is_tried_once_more_when_the_machine_became_slower(machine, run):
    machine.slowness = [REFERENCE_S, SLOW]
    machine.cases[16] = 900.0
    assert run()[0] == 0
    assert machine.limits == pytest.approx([300, 300, 1200, 1200])


def test_case_that_hangs_is_tried_once_when_the_machine_is_as_before(machine, run, folder):
    machine.cases[16] = 1e6
    status, lines = run()
    assert status == 2
    assert machine.limits == [300, 300, 300]
    assert records_of(folder)[16]["reason"] == "no result within 300 s"
    assert lines[-1].startswith(f"1 of 3 cases of s are not measured: {TITLE}16 (timeout); to run")


def test_case_that_hangs_is_tried_twice_at_most_when_the_machine_gets_ever_slower(machine, run):
    machine.slowness = [REFERENCE_S * 2**k for k in range(9)]
    machine.cases[8] = 1e6
    assert run()[0] == 2
    assert machine.limits == pytest.approx([300, 600, 600, 600])


def test_timeout_option_is_taken_literally(machine, run, folder):
    machine.slowness = [SLOW]
    machine.cases[16] = 50.0
    assert run("--timeout", "40")[0] == 2
    assert machine.limits == [40, 40, 40]
    protocol = records_of(folder)[16]["protocol"]
    assert (protocol["timeout_s"], protocol["timeout_factor"]) == (40, None)


def test_printed_command_runs_the_missing_cases_alone(machine, run, folder, capsys):
    machine.cases |= {8: "crash", 24: 50.0}
    status, lines = run("--timeout", "40", "--ranks", "1")
    assert status == 2
    command = shlex.split(lines[-1].rpartition("to run them: ")[2])
    assert command[0] == "foldperf"
    assert command[-3:] == ["--retry", "crash", "timeout"]
    machine.cases |= {8: 1.0, 24: 1.0}
    machine.limits.clear()
    assert main(command[1:]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("3 ok; 2 ran now")
    assert machine.limits == [40, 40]


def test_case_out_of_memory_is_named_and_is_no_fault(machine, run):
    machine.cases[16] = "oom"
    status, lines = run()
    assert status == 0
    assert f"not measured: {TITLE}16 (oom); to run them" in lines[-1]


def test_unsupported_case_is_not_missing(machine, run):
    machine.cases[16] = "unsupported"
    status, lines = run()
    assert status == 0
    assert lines[-1].startswith("2 ok, 1 unsupported; 3 ran now")


def test_report_names_the_unmeasured_cases_of_a_sweep(machine, run, folder, capsys):
    machine.cases = {8: "crash", 16: "interrupt", 24: 1.0}
    assert run()[0] == 130
    assert main(["report", "--results", str(folder / "results")]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    missing = f"{TITLE}8 (crash), {TITLE}16 (no record), {TITLE}24 (no record)"
    assert f"3 of 3 cases of s are not measured: {missing}; to run them: foldperf run" in line
    assert line.endswith("--retry crash")
    page = (folder / "results/report/index.html").read_text(encoding="utf-8")
    assert "3 of 3 cases of s are not measured" in page


def test_report_is_silent_when_a_plan_is_damaged_or_absent(machine, run, folder, capsys):
    machine.cases = {8: "crash", 16: "crash", 24: "crash"}
    run()
    plan = folder / "results/runs/s/plan.json"
    for spoil in (
        lambda: plan.write_text('{"sweep": "s", "cases": 3}', encoding="utf-8"),
        plan.unlink,
    ):
        spoil()
        assert main(["report", "--results", str(folder / "results")]) == 0
        assert "not measured" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("called", "in_path", "words"),
    [
        ("/env/bin/foldperf", "/env/bin/foldperf", ["foldperf"]),
        (".venv/bin/foldperf", None, [".venv/bin/foldperf"]),
        (".venv/bin/foldperf", "/other/foldperf", [".venv/bin/foldperf"]),
        ("/source/bench/__main__.py", None, [sys.executable, "-m", "bench"]),
    ],
)
def test_program_is_named_as_it_was_called(monkeypatch, called, in_path, words):
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setattr(shutil, "which", lambda _: in_path)
    assert options.program() == words


@pytest.mark.parametrize("status", [0, 2])
def test_demo_reports_the_existing_records_and_has_the_status_of_its_sweep(tmp_path, status):
    program = tmp_path / "foldperf"
    program.write_text(
        f'#!/bin/sh\necho "called $1"\n[ "$1" != run ] || exit {status}\n', encoding="utf-8"
    )
    program.chmod(0o755)
    ready = tmp_path / "ready"
    ready.write_text("", encoding="utf-8")
    done = subprocess.run(
        ["make", "--silent", "demo", f"BIN={tmp_path}", f"READY={ready}"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (done.returncode == 0) == (status == 0)
    called = [line for line in done.stdout.splitlines() if line.startswith("called")]
    assert called == ["called fetch", "called prepare", "called run", "called report"]
