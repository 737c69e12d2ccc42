"""Deadlines, states and cases of a device check, within one process."""

import json
from importlib import import_module

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.measured import measured
from support.records import parsed

from bench.check_device.check import (
    REHEARSAL,
    Check,
    Item,
    LostDeviceError,
    OutOfTimeError,
    measured_or_reason,
)
from bench.check_device.plan import NAMES, STAGES, Stage, deadline
from bench.check_device.progress import FINAL, Stages
from bench.check_device.progress import STAGES as STATES
from bench.check_device.recorder import Measured, Recorder
from bench.check_device.stages import calibration
from bench.check_device.worker import run_stages
from bench.devices.scripted import ScriptedDevice
from bench.records.metrics import Value, as_json, missing
from bench.records.reading import record_validator
from workloads.errors import UnsupportedError


class Clock:
    """Clock that only the test advances."""

    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def check(tmp_path, clock):
    recorder = Recorder(tmp_path, ScriptedDevice("nvidia"))
    said = []
    with recorder.file.locked():
        recorder.load()
        yield Check(
            device=ScriptedDevice("nvidia"),
            devices=2,
            is_rehearsal=True,
            sizes=REHEARSAL,
            recorder=recorder,
            folder=tmp_path,
            store=tmp_path,
            say=said.append,
            stage="kernels",
            deadline=clock() + 100,
            clock=clock,
        )


def item(check, clock, tokens, *, seconds=1.0, error=None):
    workload = check.workload("single operator")
    config = workload.configure({"tokens": tokens, "preset": "tiny"})

    def measure():
        clock.now += seconds
        if error:
            raise error
        values = {"step_time_s": Value(seconds, "scripted")}
        return Measured.of(values, workload.static_costs(config).as_json())

    return Item(f"case {tokens}", "operators", config, measure)


@given(
    weights=st.lists(st.floats(1, 100), min_size=1, max_size=9),
    used=st.lists(st.floats(0, 1), min_size=9, max_size=9),
    budget=st.floats(1, 1_000),
)
def test_stages_that_keep_their_deadlines_keep_the_budget(weights, used, budget):
    stages = [Stage(str(n), weight, "") for n, weight in enumerate(weights)]
    now, shares = 0.0, []
    for number, (stage, share) in enumerate(zip(stages, used, strict=False)):
        end = deadline(stage, stages[number:], now, budget)
        shares.append(end - now)
        now += share * (end - now)
    assert now <= budget * (1 + 1e-9)
    # Time that a stage does not use goes to the next ones.
    for stage, share in zip(stages, shares, strict=True):
        assert share >= budget * stage.weight / sum(weights) * (1 - 1e-9)


@pytest.mark.parametrize("stopped", range(len(STAGES)))
def test_stop_at_any_stage_loses_that_stage_alone(check, clock, tmp_path, stopped, monkeypatch):
    began = []

    def run(stage, check, stop):
        began.append(stage.name)
        clock.now += 1
        if stage.name == stop:
            raise KeyboardInterrupt
        return {}

    end = clock() + 1_000
    monkeypatch.setattr(Stage, "run", lambda stage, check: run(stage, check, NAMES[stopped]))
    with pytest.raises(KeyboardInterrupt):
        run_stages(check, STAGES, Stages(tmp_path, "identity"), end)
    monkeypatch.setattr(Stage, "run", lambda stage, check: run(stage, check, None))
    states = Stages(tmp_path, "identity")
    assert states.running() == NAMES[stopped]
    run_stages(check, STAGES, states, end)
    assert began == [*NAMES[: stopped + 1], *NAMES[stopped:]]
    assert all(states.is_final(name) for name in NAMES)


def test_states_of_another_identity_and_damaged_files_count_as_none(tmp_path, clock):
    states = Stages(tmp_path, "one")
    states.start("versions", 1.0, 2.0)
    states.end("versions", 3.0, "ok", findings={"a": 1})
    assert Stages(tmp_path, "one").is_final("versions")
    assert Stages(tmp_path).get("versions").found == {"a": 1}
    assert Stages(tmp_path).get("versions").seconds == 2.0
    assert Stages(tmp_path, "other").get("versions") is None
    content = json.loads((tmp_path / STATES).read_bytes())
    content["stages"]["versions"]["status"] = "strange"
    for damaged in ("", "[]", "{", json.dumps(content), json.dumps(content | {"format": 9})):
        (tmp_path / STATES).write_text(damaged, encoding="utf-8")
        assert Stages(tmp_path, "one").get("versions") is None


def test_running_and_cut_stages_are_not_final():
    assert {"ok", "failed", "skipped"} == FINAL


def test_cases_with_a_record_are_not_measured_again(check, clock, tmp_path):
    items = [item(check, clock, tokens) for tokens in (8, 16)]
    first = check.run(items[:1])
    before = clock()
    both = check.run(items)
    assert both[0] == first[0]
    assert clock() == before + 1
    validate = record_validator()
    for record in both:
        validate(record.as_dict())
        assert record.sweep == "check-device.kernels"
    again = Recorder(tmp_path, ScriptedDevice("nvidia"))
    assert again.identity == check.recorder.identity
    assert len((tmp_path / "records.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_case_that_fails_has_a_record_and_the_next_runs(check, clock):
    errors = [
        (UnsupportedError("no kernel"), "unsupported"),
        (MemoryError("too large"), "oom"),
        (torch.OutOfMemoryError("device full"), "oom"),
        (RuntimeError("illegal\n  instruction"), "crash"),
    ]
    items = [item(check, clock, 8 + n, error=error) for n, (error, _) in enumerate(errors)]
    records = check.run([*items, item(check, clock, 64)])
    assert [record.status for record in records] == [*(s for _, s in errors), "ok"]
    assert records[0].reason == "no kernel"
    assert records[3].reason == "RuntimeError: illegal instruction"
    validate = record_validator()
    for record in records:
        validate(record.as_dict())


def test_case_is_not_started_when_it_cannot_end_in_time(check, clock):
    items = [item(check, clock, 8 * (n + 1), seconds=30.0) for n in range(5)]
    with pytest.raises(OutOfTimeError, match="2 of 5 cases are done; next would be case 24"):
        check.run(items)
    check.deadline = clock() + 1_000
    assert len(check.run(items)) == 5


def test_unresponsive_device_ends_the_process(check, clock, monkeypatch):
    def synchronize():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    crashing = item(check, clock, 8, error=RuntimeError("illegal memory access"))
    monkeypatch.setattr(check.device, "synchronize", synchronize)
    with pytest.raises(LostDeviceError, match="after case 8"):
        check.run([crashing])
    # The next process begins after it.
    assert [record.status for record in check.run([crashing])] == ["crash"]


def test_failures_have_a_reason():
    def refuse():
        raise NotImplementedError("not here")

    assert measured_or_reason(refuse).reason == "not here"


def test_tick_of_a_counter_and_idle_power_are_measured():
    device = ScriptedDevice("nvidia", tick_s=0.02, curve=lambda _moment: 75.0)
    power, period = calibration.at_rest(device, 0.6)
    assert power == pytest.approx(75.0, rel=0.1)
    assert period == pytest.approx(0.02, rel=0.1)
    stopped = ScriptedDevice("nvidia", tick_s=9.0)
    assert calibration.at_rest(stopped, 0.05) == ("0 ticks of the counter in 0.05 s",) * 2


def test_rates_are_work_over_device_time():
    def record(quantity, seconds, work=None, status="ok"):
        table = measured(8, run_id=quantity.encode().hex()[:8].zfill(32))
        table["workload"] |= {"name": "device-rates", "config": {"quantity": quantity}}
        table["facts"]["arithmetic"] = "bfloat16"
        table["outcome"] = {"work": work}
        time = missing("not here") if seconds is None else Value(seconds, "graph")
        table["metrics"] = as_json({"device_time_s": time, "step_time_s": Value(99.0, "clock")})
        return parsed(table | {"status": status, "reason": None if status == "ok" else "not here"})

    copy, l2_copy, product = (
        record("copy", 2.0, 8e12),
        record("l2_copy", 0.5, 4e12),
        record("product", 4.0, 4e15),
    )
    absent = record("exponentials", None, status="unsupported")
    found = calibration.calibration_of([copy, l2_copy, product, absent])
    assert (found.bytes_s, found.l2_bytes_s, found.exponentials_s) == (4e12, 8e12, None)
    assert found.flops == {"bfloat16": 1e15}
    assert found.run_ids == (copy.run_id, l2_copy.run_id, product.run_id)
    assert calibration.calibration_of([record("copy", None, status="crash")]) is None


def test_every_stage_is_a_module():
    for name in NAMES:
        assert callable(import_module(f"bench.check_device.stages.{name}").run)
