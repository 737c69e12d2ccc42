"""Estimates of durations: by the nearest cases, else by the protocol."""

import json
from dataclasses import asdict
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.measured import measured
from support.records import parsed

from bench.records.reading import read_records
from bench.records.record import RecordedDevice
from bench.run.durations import Durations, expected_s, known_durations
from bench.run.points import Point, point_of
from workloads.catalogue import catalogue

ROOT = Path(__file__).resolve().parents[3]
PROTOCOL = {"warmup_steps": 1, "timed_steps": 5, "counts": True, "energy_s": 2.0}
KIND = ("fold full", "bfloat16", "")
CPU = RecordedDevice(vendor="none", kind="cpu", name="a cpu")


def at(size, backend="reference", workload="fold", ranks=1, kind=KIND):
    return Point(workload, backend, kind, float(size), ranks)


def learned(*observed):
    durations = Durations(accelerator=True)
    for point, seconds in observed:
        durations.observe(point, PROTOCOL, "ok", seconds)
    return durations


def test_estimate_without_observations_is_that_of_the_protocol():
    durations = Durations(accelerator=True)
    assert durations.estimate(at(64), PROTOCOL) == expected_s(PROTOCOL, at(64), accelerator=True)
    assert not durations.knows(at(64))


def test_protocol_that_does_more_takes_longer():
    usual = expected_s(PROTOCOL, at(64), accelerator=True)
    for more in ({"warmup_steps": 9}, {"timed_steps": 50}, {"energy_s": 10.0}):
        assert expected_s(PROTOCOL | more, at(64), accelerator=True) > usual
    assert expected_s(PROTOCOL | {"counts": False}, at(64), accelerator=True) < usual
    assert expected_s(PROTOCOL, at(64), accelerator=False) < usual
    assert expected_s(PROTOCOL, at(64, ranks=2), accelerator=True) > usual
    assert expected_s(PROTOCOL, at(64, backend="compiled"), accelerator=True) > usual


@given(st.floats(0.1, 1e4), st.sampled_from(("ok", "oom", "crash", "timeout")))
def test_same_case_takes_as_long_as_before(seconds, status):
    durations = Durations(accelerator=False)
    durations.observe(at(64), PROTOCOL, status, seconds)
    assert durations.estimate(at(64), PROTOCOL) == pytest.approx(seconds)
    assert durations.estimate(at(64)._replace(replicate=3), PROTOCOL) == pytest.approx(seconds)


@given(st.floats(0.0, 3.0), st.integers(65, 4095))
def test_power_law_of_the_size_is_followed(exponent, size):
    durations = learned((at(64), 10.0), (at(256), 10.0 * 4**exponent))
    expected = 10.0 * (size / 64) ** exponent
    assert durations.estimate(at(size), PROTOCOL) == pytest.approx(expected)


def test_slope_that_is_noise_is_not_extended():
    durations = learned((at(64), 10.0), (at(128), 9.0))
    assert durations.estimate(at(1024), PROTOCOL) == pytest.approx(9.0)
    durations = learned((at(64), 1.0), (at(128), 100.0))
    assert durations.estimate(at(256), PROTOCOL) == pytest.approx(800.0), "a cube at the most"


def test_nearest_cases_decide():
    durations = learned(
        (at(64), 10.0),
        (at(64, backend="eager"), 30.0),
        (at(64, kind=("fold tiny", "", "")), 50.0),
        (at(64, workload="text"), 70.0),
    )
    assert durations.estimate(at(64, ranks=2), PROTOCOL) > durations.estimate(at(64), PROTOCOL)
    other = ("fold mini", "", "")
    assert durations.estimate(at(64, kind=other), PROTOCOL) == pytest.approx(30.0), "the median"
    assert durations.estimate(at(64, workload="new"), PROTOCOL) == pytest.approx(40.0)
    assert durations.knows(at(1, kind=other))
    assert not durations.knows(at(1, workload="new"))


def test_early_failure_does_not_change_other_estimates():
    durations = Durations(accelerator=True)
    durations.observe(at(1024), PROTOCOL, "oom", 1.0)
    assert durations.estimate(at(64), PROTOCOL) == expected_s(PROTOCOL, at(64), accelerator=True)


def record(**changes):
    workload = catalogue()["transformer"]
    config = workload.values(workload.configure({"preset": "bloom-tiny", "tokens": 64}))
    found = measured(64, workload="transformer")
    found["workload"]["config"] = config
    return found | {"duration_s": 33.0} | changes


def test_records_of_similar_machines_count(tmp_path):
    found = catalogue()
    here, host = parsed(record()), record()["host"]
    lines = [
        record(),
        record(host=host | {"cpu": "another"}, duration_s=1.0),
        record(devices=[record()["devices"][0] | {"name": "another"}], duration_s=2.0),
        record(duration_s=0.0),
        measured(64, workload="no such workload"),
    ]
    (tmp_path / "s").mkdir()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "s/records.jsonl").write_text(text + "{torn", encoding="utf-8")
    durations = known_durations(tmp_path, found, here.host, here.devices[0])
    point = point_of(found["transformer"], record()["workload"]["config"], 1)
    assert durations.estimate(point, record()["protocol"]) == pytest.approx(33.0)
    nothing = known_durations(tmp_path / "none", found, here.host, CPU)
    assert not nothing.knows(point)


def test_axis_that_a_record_lacks_has_its_default():
    workload = catalogue()["pipeline"]
    config = workload.values(workload.configure({"preset": "full"}))
    older = {name: value for name, value in config.items() if name != "cycles"}
    assert point_of(workload, older, 1) == point_of(workload, config, 1)


def test_recorded_sweep_is_estimated_from_its_other_cases():
    """Each case of the demo from the others: within a third in the middle, the sum within 10 %."""
    path = ROOT / "results" / "recorded" / "demo-2-core-cpu.jsonl"
    records = read_records([path])
    ratios, total = [], 0.0
    for number, left_out in enumerate(records):
        durations = Durations(accelerator=False)
        others = records[:number] + records[number + 1 :]
        durations.observe_records(others, catalogue(), lambda record: True)
        workload, seconds = left_out.workload, left_out.duration_s
        point = point_of(catalogue()[workload.name], workload.config, workload.ranks)
        estimate = durations.estimate(point, asdict(left_out.protocol))
        total += estimate
        ratios.append(max(estimate / seconds, seconds / estimate))
    assert median(ratios) < 1.33
    assert total == pytest.approx(sum(record.duration_s for record in records), rel=0.1)
