"""`foldperf run --budget`: cases that run, remaining cases, messages, unsupported cases."""

import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.clock import Clock
from support.measured import measured
from support.records import valid_records

import bench.run.placement
import bench.run.runner
import bench.run.schedule
import bench.run.time_limits
from bench.cli import main
from bench.devices.device import Description
from bench.errors import UsageError
from bench.records.metrics import Value, as_json
from bench.run.isolation import Ended
from bench.run.time_limits import REFERENCE_S
from bench.run.unmeasured import unmeasured_in
from workloads.catalogue import catalogue

CATALOGUE = catalogue()
SWEEP = """
[protocol]
timeout_s = 300
[[case]]
workload = "operators"
axes = { operator = "layer_norm", preset = "tiny", tokens = [8, 16, 24, 32, 40] }
[[case]]
workload = "transformer"
axes = { preset = "bloom-tiny", tokens = [16, 32] }
"""


class Machine:
    """Stand-in for case processes, which take time of a scripted clock."""

    def __init__(self, clock):
        self.clock = clock
        self.seconds = 20.0
        self.started = []

    def run_isolated(self, command, *, timeout_s, **_):
        request = json.loads(Path(command[-2]).read_text(encoding="utf-8"))
        self.started.append((request["workload"], request["config"]["tokens"]))
        seconds = min(self.seconds, timeout_s)
        self.clock.now += seconds
        if seconds < self.seconds:
            return Ended(-9, "timeout", seconds, 0, "")
        facts = CATALOGUE["operators"].static_costs(CATALOGUE["operators"].configure({"tokens": 8}))
        content = {
            **{"status": "ok", "reason": None},
            "metrics": measured(8)["metrics"]
            | as_json({"energy_per_step_j": Value(6.0, "counter")}),
            "facts": {name: getattr(facts, name) for name in facts.__slots__}
            | {"notes": [], "components": {}, "forward_flops_by_component": {}},
            **{part: {} for part in ("telemetry", "outcome", "breakdown", "notes")},
        }
        ranks = int(command[-3]) if "bench.run.launch" in command else 1
        for rank in range(ranks):
            Path(f"{command[-1]}.{rank}").write_text(json.dumps(content), encoding="utf-8")
        return Ended(0, None, seconds, 0, "")


@pytest.fixture
def machine(monkeypatch):
    clock = Clock()
    machine = Machine(clock)
    monkeypatch.setattr(bench.run.runner, "run_isolated", machine.run_isolated)
    monkeypatch.setattr(bench.run.time_limits, "fixed_workload", lambda: REFERENCE_S)
    monkeypatch.setattr(bench.run.schedule.Budget.__init__, "__defaults__", (clock,))
    return machine


@pytest.fixture
def foldperf(tmp_path, capsys):
    (tmp_path / "s.toml").write_text(SWEEP, encoding="utf-8")

    def run(*words):
        places = ["--results", str(tmp_path / "results"), "--store", str(tmp_path / "store")]
        status = main(["run", str(tmp_path / "s.toml"), *places, *words])
        captured = capsys.readouterr()
        return status, captured.out.splitlines(), captured.err.splitlines()

    return run


def test_budget_covers_each_pair_and_the_next_run_does_the_others(machine, foldperf, tmp_path):
    status, out, err = foldperf("--budget", "2")
    assert status == 0
    assert sorted(machine.started[:2]) == [("operators", 8), ("transformer", 16)]
    assert machine.started[2] == ("transformer", 32), "the other end of its sizes"
    assert len(machine.started) == 6
    assert "7 cases to run, about " in err[0]
    assert err[0].endswith("the most informative first, for 2 min")
    assert out[0].startswith("6 ok; 6 ran now")
    left = "1 of 7 cases of s are not measured: 1 left by a budget of 2 min; to run them: foldperf"
    assert out[1].startswith(left)
    assert len(out) == 2
    (missing,) = unmeasured_in([tmp_path / "results"])
    assert str(missing) == out[1], "the report repeats it"
    command = shlex.split(out[1].rpartition("to run them: ")[2])
    assert "--budget" not in command
    status, out, _ = foldperf()
    assert status == 0
    assert out == [f"7 ok; 1 ran now; records in {tmp_path}/results/runs/s/records.jsonl"]
    assert len(set(machine.started)) == len(machine.started) == 7


def test_second_budget_continues_with_the_most_informative_cases(machine, foldperf):
    foldperf("--budget", "1")
    first = list(machine.started)
    assert sorted(first) == [("operators", 8), ("transformer", 16)]
    foldperf("--budget", "1")
    assert machine.started[2] == ("transformer", 32)
    assert len(set(machine.started)) == len(machine.started) == 5


def test_budget_too_short_for_any_case_runs_none(machine, foldperf):
    status, out, _ = foldperf("--budget", "0.001")
    assert (status, machine.started) == (0, [])
    assert "7 left by a budget of 0.001 min" in out[-1]


def test_timeout_is_named_with_the_remaining_cases(machine, foldperf):
    machine.seconds = 1e6
    status, out, _ = foldperf("--budget", "1")
    assert status == 2
    assert len(machine.started) == 1, "the limit of a case is longer than the budget"
    assert "tokens=" in out[-1]
    assert "(timeout), 6 left by a budget of 1 min; to run them: " in out[-1]
    assert out[-1].endswith("--retry timeout")


def test_case_is_not_tried_again_beyond_the_budget(machine, foldperf, monkeypatch):
    speeds = [REFERENCE_S, *[4 * REFERENCE_S] * 9]
    monkeypatch.setattr(bench.run.time_limits, "fixed_workload", lambda: speeds.pop(0))
    machine.seconds = 1e6
    start = machine.clock.now
    assert foldperf("--budget", "1")[0] == 2
    assert machine.clock.now - start == 300.0


def test_dry_run_prints_the_cases_within_the_budget(machine, foldperf):
    _, everything, err = foldperf("--dry-run")
    assert len(everything) == 7
    assert err[-1].startswith("7 cases to run, about ")
    _, chosen, _ = foldperf("--dry-run", "--budget", "1")
    assert 2 <= len(chosen) < 7
    assert set(chosen) < set(everything)
    assert not machine.started


def test_cases_that_cannot_run_are_recorded_without_a_start(machine, foldperf, tmp_path):
    text = SWEEP.replace('preset = "tiny"', 'preset = "tiny", backend = ["triton", "reference"]')
    text += "ranks = [1, 64]\n"
    (tmp_path / "s.toml").write_text(text, encoding="utf-8")
    status, out, _ = foldperf("--budget", "60")
    assert status == 0
    assert out == [
        f"7 ok, 7 unsupported; 7 ran now; records in {tmp_path}/results/runs/s/records.jsonl"
    ]
    records = valid_records(tmp_path / "results/runs/s/records.jsonl")
    reasons = {r["reason"] for r in records if r["status"] == "unsupported"}
    assert len(reasons) == 2
    assert "backend=triton needs an accelerator: its kernels do not run on a CPU" in reasons
    assert len(machine.started) == 7
    assert "0 ran now" in foldperf()[1][0]


def test_case_that_could_not_run_runs_once_it_can(machine, foldperf, monkeypatch):
    reasons = ["there is no moon"]
    monkeypatch.setattr(
        "bench.run.placement.Placement.unsupported_reason",
        lambda *_: reasons[0] if reasons else None,
    )
    assert foldperf()[1][0].startswith("7 unsupported; 0 ran now")
    assert foldperf()[1][0].startswith("7 unsupported; 0 ran now")
    reasons.clear()
    assert foldperf()[1][0].startswith("7 ok; 7 ran now")
    assert len(machine.started) == 7


def test_ranks_beyond_the_accelerators_are_unsupported_and_energy_is_of_modules(
    machine, foldperf, tmp_path, monkeypatch
):
    """Two dies of one module: one and two ranks run, and its energy counts once."""

    def find(choice, index):
        if index > 1:
            raise UsageError(f"rank {index} needs a device of its own: torch sees 2")
        about = Description(
            vendor="amd", name="die", kind="cuda", uuid_hash=str(index), energy_domain="module"
        )
        return SimpleNamespace(torch_device=torch.device("cuda", index), describe=lambda: about)

    monkeypatch.setattr(bench.run.placement, "find_device", find)
    case = '[[case]]\nworkload = "transformer"\nranks = [1, 2, 4, 8]\n'
    (tmp_path / "s.toml").write_text(case, encoding="utf-8")
    status, out, _ = foldperf("--budget", "15")
    assert status == 0
    assert out[0].startswith("2 ok, 2 unsupported; 2 ran now")
    records = valid_records(tmp_path / "results/runs/s/records.jsonl")
    found = {record["workload"]["ranks"]: record for record in records}
    assert [found[ranks]["status"] for ranks in (1, 2, 4, 8)] == [*["ok"] * 2, *["unsupported"] * 2]
    assert found[8]["reason"] == "8 ranks: rank 2 needs a device of its own: torch sees 2"
    assert [len(found[ranks]["devices"]) for ranks in (1, 2, 4)] == [1, 2, 2]
    assert found[2]["metrics"]["energy_per_step_j"]["value"] == 6.0
