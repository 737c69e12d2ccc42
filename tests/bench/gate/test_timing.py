"""The timing gate: its statistics on samples of known noise, its clock, and whole runs."""

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import HANG_S, paced

from bench.cli import main
from bench.errors import BenchError
from bench.gate.outcome import AMBIGUOUS, FAIL, PASS
from bench.gate.timing import process as timing_process
from bench.gate.timing.block import Cell, CellTimes, _compare
from bench.gate.timing.measuring_process import MeasuringProcess
from bench.gate.timing.process import OwnTime
from bench.gate.timing.verdict import MOST_PAIRS, Rule, judge, overall

ROOT = Path(__file__).resolve().parents[3]
SLOWER = math.log(1.3)


def samples(generator, pairs, noise, effect=0.0):
    """(pairs, same-side ratios) of a cell whose processes differ by `noise`."""
    return effect + noise * generator.normal(size=pairs), noise * generator.normal(size=pairs)


def exactly(pairs, noise, effect=0.0):
    """Return the same with exactly this mean and spread."""
    values = np.resize([1.0, -1.0], pairs)
    return effect + values * noise / values.std(ddof=1), values * noise


class TestVerdict:
    def test_identical_code_fails_with_at_most_the_stated_probability(self):
        """Count over all cells together, at a probability large enough to be counted."""
        generator = np.random.default_rng(0)
        rule = Rule(threshold=1e-9, false_fail=0.2, looks=1)
        failed = sum(
            FAIL in {judge(*samples(generator, 8, 0.05), 10, rule).verdict for _ in range(10)}
            for _ in range(300)
        )
        assert 0 < failed <= 0.2 * 300

    def test_identical_code_does_not_fail_by_the_usual_rule(self):
        generator = np.random.default_rng(1)
        verdicts = [judge(*samples(generator, 8, 0.05), 30, Rule()).verdict for _ in range(3000)]
        assert FAIL not in verdicts

    @pytest.mark.parametrize("heavy", [False, True])
    def test_slowdown_of_30_percent_fails(self, heavy):
        generator = np.random.default_rng(2)
        failed = 0
        for _ in range(200):
            pairs, same = samples(generator, 16, 0.06)
            if heavy:
                pairs, same = 0.035 * generator.standard_t(3, size=(2, 16))
            failed += judge(pairs + SLOWER, same, 30, Rule()).verdict == FAIL
        assert failed >= 0.95 * 200

    def test_quiet_identical_code_passes_and_noisy_does_not(self):
        generator = np.random.default_rng(3)
        for noise, expected in ((0.01, PASS), (0.2, AMBIGUOUS)):
            verdicts = [judge(*samples(generator, 8, noise), 30, Rule()).verdict for _ in range(50)]
            assert verdicts.count(expected) >= 40, noise

    def test_slowdown_at_the_threshold_rarely_passes(self):
        generator = np.random.default_rng(4)
        rule = Rule(false_pass=0.1, looks=1)
        at = math.log1p(rule.threshold)
        verdicts = [judge(*samples(generator, 8, 0.02, at), 1, rule).verdict for _ in range(500)]
        assert 0.05 * 500 <= verdicts.count(PASS) <= 0.14 * 500

    def test_certain_change_below_the_threshold_passes(self):
        found = judge(*exactly(8, 0.001, 0.03), 30, Rule())
        assert found.verdict == PASS
        assert found.low > 0

    def test_stated_number_of_pairs_settles_a_cell(self):
        """Nine times in ten with that many; hardly ever with a third of them."""
        generator = np.random.default_rng(5)
        found = judge(*exactly(8, 0.06), 30, Rule())
        assert found.verdict == AMBIGUOUS
        enough = found.pairs + found.more_pairs

        def settled(pairs):
            return sum(
                judge(*samples(generator, pairs, 0.06), 30, Rule()).verdict == PASS
                for _ in range(100)
            )

        assert settled(enough) >= 82
        assert settled(max(enough // 3, 4)) <= 50

    def test_stated_number_of_pairs_settles_a_slowdown(self):
        generator = np.random.default_rng(6)
        found = judge(*exactly(8, 0.12, SLOWER), 30, Rule())
        assert found.verdict == AMBIGUOUS
        enough = found.pairs + found.more_pairs
        verdicts = [
            judge(*samples(generator, enough, 0.12, SLOWER), 30, Rule()).verdict for _ in range(100)
        ]
        assert verdicts.count(FAIL) >= 82

    def test_more_pairs_is_none_when_too_many_would_be_needed(self):
        assert judge(*exactly(8, 3.0), 30, Rule()).more_pairs is None
        assert judge(*exactly(8, 0.3), 30, Rule()).more_pairs <= MOST_PAIRS

    def test_noise_of_the_same_code_forbids_a_fail(self):
        """Pairs that agree by chance, while processes of the same side differ as much."""
        pairs, _ = exactly(8, 0.001, 0.1)
        assert judge(pairs, np.full(8, 0.001), 30, Rule()).verdict == FAIL
        found = judge(pairs, np.resize([0.2, -0.2], 8), 30, Rule())
        assert found.verdict != FAIL
        assert found.floor > found.change

    def test_detectable_slowdown_is_detected_nine_times_in_ten(self):
        generator = np.random.default_rng(7)
        effect = math.log1p(judge(*exactly(8, 0.05), 30, Rule()).detectable)
        verdicts = [
            judge(*samples(generator, 8, 0.05, effect), 30, Rule()).verdict for _ in range(300)
        ]
        assert 0.85 * 300 <= verdicts.count(FAIL) <= 0.99 * 300

    def test_improvement_is_reported_and_passes(self):
        found = judge(*exactly(8, 0.01, -SLOWER), 30, Rule())
        assert (found.verdict, found.faster) == (PASS, True)
        assert not judge(*exactly(8, 0.01), 30, Rule()).faster

    def test_lower_bound_decreases_with_the_number_of_cells(self):
        lows = [judge(*exactly(8, 0.05, 0.2), cells, Rule()).low for cells in (1, 10, 100)]
        assert lows == sorted(lows, reverse=True)

    def test_worst_cell_decides(self):
        assert overall([PASS, FAIL, AMBIGUOUS]) == FAIL
        assert overall([PASS, AMBIGUOUS]) == AMBIGUOUS
        assert overall([PASS]) == PASS


def spin(seconds):
    """Use this much of the thread's CPU time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


class TestOwnTime:
    def test_work_counts_as_its_cpu_time_and_sleep_as_its_wall_time(self):
        clock = OwnTime()
        # On a loaded machine the scheduler's count of waiting times is off by some milliseconds.
        assert min(clock.of(lambda: spin(0.02)) for _ in range(5)) == pytest.approx(0.02, rel=0.3)
        assert max(clock.of(lambda: time.sleep(0.05)) for _ in range(5)) >= 0.049

    def test_other_processes_on_the_core_do_not_count(self):
        """Wall time grows with the processes on the core, the thread's own time hardly."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(before)})
        try:
            context = multiprocessing.get_context("fork")
            neighbours = [context.Process(target=spin, args=(30,), daemon=True) for _ in range(2)]
            for neighbour in neighbours:
                neighbour.start()
            clock, walls, owns = OwnTime(), [], []
            for _ in range(5):
                start = time.perf_counter()
                owns.append(clock.of(lambda: spin(0.03)))
                walls.append(time.perf_counter() - start)
        finally:
            for neighbour in neighbours:
                neighbour.kill()
                neighbour.join()
            os.sched_setaffinity(0, before)
        assert median(walls) > 0.06
        assert median(owns) < 0.04


def gate(old, new, packages, *options):
    """The command line in the tree `new`, against `old`."""
    search = os.pathsep.join(map(str, (new, packages)))
    return subprocess.Popen(
        [sys.executable, "-m", "bench", "gate", "--timing", *options, "--against", str(old)],
        cwd=new,
        env=os.environ | {"PYTHONPATH": search, "TMPDIR": str(packages)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


PACE = {"same": [0.002, 0.001, 0.002], "slower": [0.002, 0.001, 0.002]}


@pytest.fixture
def packages(tmp_path):
    return paced.install(tmp_path / "packages")


def test_planted_slowdown_fails_by_name_and_nothing_else_does(tmp_path, packages):
    old = paced.tree(tmp_path / "old", json.dumps(PACE | {"broken": PACE["same"]}))
    now = PACE | {"slower": [0.002, 0.002, 0.002], "broken": "raise", "new": PACE["same"]}
    new = paced.tree(tmp_path / "new", json.dumps(now))
    markdown, junit = tmp_path / "summary.md", tmp_path / "junit.xml"
    options = ("--only", "paced", "--pairs", "4", "--json")
    options += ("--markdown", str(markdown), "--junit", str(junit))
    running = gate(old, new, packages, *options)
    out, err = running.communicate(timeout=HANG_S)
    assert running.returncode == 1, err
    found = json.loads(out)
    cells = {Cell(cell["case"], cell["phase"]): cell for cell in found["cells"]}
    failed = {cell for cell in cells if cells[cell]["verdict"] == FAIL}
    slower = Cell("paced operator=slower", "backward")
    # The step is a fifth slower as well, which few pairs may or may not detect.
    assert {slower} <= failed <= {slower, slower._replace(phase="step")}
    assert cells[slower]["change"] == pytest.approx(1.0, abs=0.25)
    assert cells[slower]["low"] > 0.05
    assert {cell.phase for cell in cells} == {"forward", "backward", "optimizer", "step"}
    failures = {title.split("=")[1]: each for title, each in found["failures"].items()}
    assert failures["broken"]["side"] == "candidate"
    assert "the operator is unhappy" in failures["broken"]["reason"]
    assert (failures["new"]["side"], failures["nowhere"]["side"]) == ("baseline", "both")
    # No process remains, and both files have the same verdict.
    assert not list(packages.glob("foldperf-gate-*"))
    assert "| ❌ FAIL | paced operator=slower | backward |" in markdown.read_text(encoding="utf-8")
    red = {
        case.get("classname").split("=")[1]
        for case in ET.parse(junit).iter("testcase")
        if case.find("failure") is not None
    }
    assert red == {"slower", "broken"}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("die", "the candidate process ended with status 7: a case; it last said: I give up"),
        ("hang", "the candidate process says nothing for 0.5 s: a case"),
    ],
)
def test_process_that_dies_or_hangs_is_a_fault_that_names_it(
    tmp_path, packages, monkeypatch, how, message
):
    monkeypatch.setenv("PYTHONPATH", str(packages))
    tree = paced.tree(tmp_path / "tree", json.dumps({"same": how}))
    case = {"workload": "paced", "config": {}, "device": "cpu", "store": "none", "seed": 0}
    with MeasuringProcess("candidate", tree) as process:
        process.greeted(60)
        process.ask({"request": "build", "case": case}, "a case")
        with pytest.raises(BenchError, match=message):
            process.answer(0.5 if how == "hang" else 60)
    assert not Path(f"/proc/{process.pid}").exists()


def test_accelerator_phases_are_timed_by_the_device(monkeypatch):
    class Watch:
        def __init__(self):
            self.marks = 0

        def mark(self):
            self.marks += 1

        def intervals(self):
            return [0.25] * (self.marks - 1)

    class Accelerator:
        torch_device = torch.device("cuda")
        waits = 0

        def stopwatch(self):
            return Watch()

        def synchronize(self):
            self.waits += 1

    class Steps:
        phases = ("forward", "backward")

        def run(self, phase):
            pass

    workload = SimpleNamespace(configure=dict, build=lambda config, setting: Steps())
    device = Accelerator()
    monkeypatch.setattr(timing_process, "find_device", lambda choice: device)
    monkeypatch.setattr(timing_process, "catalogue", lambda: {"steps": workload})
    bench = timing_process.Bench()
    case = {"workload": "steps", "config": {}, "device": "cuda", "store": "none", "seed": 0}
    assert bench.build(case)["phases"] == ["forward", "backward"]
    steps = bench.slice(0.001)["steps"]
    assert set(map(tuple, steps)) == {(0.25, 0.25)}
    assert device.waits > len(steps)


def test_termination_leaves_neither_processes_nor_folders(tmp_path, packages):
    old = paced.tree(tmp_path / "old", json.dumps(PACE))
    new = paced.tree(tmp_path / "new", json.dumps({"same": "hang"}))
    running = gate(old, new, packages, "--only", "operator=same")
    end = time.monotonic() + HANG_S
    while not (children := descendants(running.pid)) or len(children) < 4:
        assert time.monotonic() < end, "four processes were never seen"
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=HANG_S)
    assert running.returncode == 130
    assert not list(packages.glob("foldperf-gate-*"))
    # The kernel kills them; that they are gone may take a moment.
    end = time.monotonic() + HANG_S
    while left := [child for child in children if Path(f"/proc/{child}").exists()]:
        assert time.monotonic() < end, left
        time.sleep(0.05)


def descendants(pid):
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    return [int(child) for child in found]


def test_invalid_request_is_an_error_of_one_line(capsys):
    for command, message in {
        "gate --against main": "--against goes with --timing",
        "gate --timing --bless --reason x": "--bless goes without --timing",
        "gate --timing --pairs 5": "--pairs 5: expected an even number, 4 at least",
        "gate --timing --threshold 0": "--threshold 0: expected 0 to 1000 %",
        "gate --timing --against none": "--against none: neither a commit of",
        "gate --timing --only nothing-like-it": "no case's title contains it",
    }.items():
        assert main(command.split()) == 2, command
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_fault_of_the_gate_itself_is_not_a_regression(monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("the gate is unhappy")

    monkeypatch.setattr("bench.gate.timing.gate.run_gate", broken)
    assert main(["gate", "--timing", "--against", str(ROOT)]) == 2
    assert "the gate is unhappy" in capsys.readouterr().err


def test_cell_times_are_ratios_within_rounds():
    """A factor that all processes of a round share cancels in the ratios."""
    drift = np.exp(np.linspace(0, 2, 6))
    rounds = [[d * t for t in (1.0, 1.1, 1.2, 1.3)] for d in drift]
    found = _compare(rounds)
    assert isinstance(found, CellTimes)
    assert found.pairs == pytest.approx((math.log(1.1), math.log(1.2 / 1.3)))
    assert found.same_side == pytest.approx((math.log(1.3), math.log(1.2 / 1.1)))
