"""Runs with a budget: never overrun by more than a case's time limit, and resumed without one."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.measured import measured
from support.records import valid_records

import bench.run
import bench.schedule
import bench.time_limits
from bench.cli import main
from bench.durations import Durations
from bench.isolation import Ended
from bench.measure import Protocol
from bench.schedule import Budget, Schedule
from bench.sweep import Case
from bench.time_limits import REFERENCE_S
from bench.unmeasured import unmeasured_in
from workloads.catalogue import catalogue

CATALOGUE = catalogue()
LIMIT_S = 300.0
TITLE = "operators operator=layer_norm preset=tiny tokens="
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


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def cases(sizes, backends=("reference", "compiled")):
    return [
        Case(
            title=f"{backend} {size}",
            workload="operators",
            config=CATALOGUE["operators"].configure({"tokens": size, "backend": backend}),
            device="cpu",
            ranks=1,
            replicate=0,
            seed=0,
            protocol=Protocol(),
        )
        for size in sizes
        for backend in backends
    ]


def run(found, seconds, budget_s):
    """Run cases that take so long; returns their numbers and the time that passed."""
    clock, done = Clock(), []
    schedule = Schedule(found, CATALOGUE, Durations(accelerator=False), Budget(budget_s, clock))
    start = clock.now
    while (number := schedule.next()) is not None:
        took = min(seconds[number], LIMIT_S)
        clock.now += took
        done.append(number)
        schedule.ended(number, "timeout" if took == LIMIT_S else "ok", took)
    return done, clock.now - start


@given(
    st.lists(st.integers(8, 512), min_size=1, max_size=6, unique=True),
    st.data(),
    st.floats(0.5, 5000.0),
)
def test_budget_is_overrun_by_less_than_the_limit_of_a_case(sizes, data, budget_s):
    found = cases(sizes)
    seconds = [data.draw(st.floats(0.1, 2 * LIMIT_S)) for _ in found]
    done, passed = run(found, seconds, budget_s)
    assert passed <= budget_s + LIMIT_S
    assert len(set(done)) == len(done)
    assert run(found, seconds, budget_s) == (done, passed), "a function of what happens"


def test_budget_is_kept_once_durations_are_known():
    """Cases of a power law: from the third size on no estimate is too low."""
    found = cases([64, 128, 256, 512, 1024], ["reference"])
    seconds = [case.config["tokens"] / 10 for case in found]
    done, passed = run(found, seconds, 160.0)
    assert passed <= 160.0
    assert len(done) == 4, "64, 128 and 256 still fit beside 1,024"


def test_budget_that_suffices_runs_everything():
    found = cases([8, 16])
    assert sorted(run(found, [5.0] * 4, 1e6)[0]) == [0, 1, 2, 3]


def test_without_a_budget_the_order_is_the_sweeps():
    found = cases([8, 16, 24])
    schedule = Schedule(found, CATALOGUE, Durations(accelerator=False))
    schedule.recorded(2, "ok")
    schedule.leave_out(0)
    order = []
    while (number := schedule.next()) is not None:
        order.append(number)
        schedule.ended(number, "ok", 1.0)
    assert order == [1, 3, 4, 5]


def test_description_says_how_many_how_long_and_from_what():
    found = cases([8, 16])
    durations = Durations(accelerator=False)
    schedule = Schedule(found, CATALOGUE, durations)
    line = schedule.description("{:.0f} s".format)
    assert line == "4 cases to run, about 134 s, estimated from the protocol alone"
    schedule.ended(0, "ok", 10.0)
    line = schedule.description("{:.0f} s".format)
    assert line.startswith("3 cases to run, about ")
    assert line.endswith(", estimated from earlier cases on such a machine")
    other = replace(found[0], workload="pipeline", config=CATALOGUE["pipeline"].configure({}))
    schedule = Schedule([*found, other], CATALOGUE, durations, Budget(60.0, Clock()))
    line = schedule.description("{:.0f} s".format)
    assert "and, for 1 of them, the protocol alone; the most informative first, for 60 s" in line


class Machine:
    """Stands for case processes, which take time of a scripted clock."""

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
        facts = CATALOGUE["operators"].facts(CATALOGUE["operators"].configure({"tokens": 8}))
        content = {
            **{"status": "ok", "reason": None, "metrics": measured(8)["metrics"]},
            "facts": {name: getattr(facts, name) for name in facts.__slots__}
            | {"notes": [], "components": {}, "forward_flops_by_component": {}},
            **{part: {} for part in ("telemetry", "outcome", "breakdown", "notes")},
        }
        Path(f"{command[-1]}.0").write_text(json.dumps(content), encoding="utf-8")
        return Ended(0, None, seconds, 0, "")


@pytest.fixture
def machine(monkeypatch):
    clock = Clock()
    machine = Machine(clock)
    monkeypatch.setattr(bench.run, "run_isolated", machine.run_isolated)
    monkeypatch.setattr(bench.time_limits, "fixed_workload", lambda: REFERENCE_S)
    monkeypatch.setattr(bench.schedule.Budget.__init__, "__defaults__", (clock,))
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


def test_budget_covers_each_pair_and_leaves_the_rest_to_the_next_run(machine, foldperf, tmp_path):
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


def test_second_budget_goes_on_with_what_tells_most_beside_the_first(machine, foldperf):
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


def test_timeout_is_named_beside_what_is_left(machine, foldperf):
    machine.seconds = 1e6
    status, out, _ = foldperf("--budget", "1")
    assert status == 2
    assert len(machine.started) == 1, "the limit of a case is longer than the budget"
    assert "tokens=" in out[-1]
    assert "(timeout), 6 left by a budget of 1 min; to run them: " in out[-1]
    assert out[-1].endswith("--retry timeout")


def test_case_is_not_tried_again_beyond_the_budget(machine, foldperf, monkeypatch):
    speeds = [REFERENCE_S, *[4 * REFERENCE_S] * 9]
    monkeypatch.setattr(bench.time_limits, "fixed_workload", lambda: speeds.pop(0))
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
        "bench.placement.Placement.unsupported_reason", lambda *_: reasons[0] if reasons else None
    )
    assert foldperf()[1][0].startswith("7 unsupported; 0 ran now")
    assert foldperf()[1][0].startswith("7 unsupported; 0 ran now")
    reasons.clear()
    assert foldperf()[1][0].startswith("7 ok; 7 ran now")
    assert len(machine.started) == 7
