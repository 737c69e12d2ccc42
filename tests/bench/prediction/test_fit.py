"""Fits of achievable fractions: planted slowdowns are recovered, and errors are those left out."""

import random
from dataclasses import replace
from math import exp

import pytest
from support.records import a_record, parsed
from support.synthetic_traces import MACHINE, OPERATORS, PHASES, step

from bench.devices.calibration import Calibration
from bench.errors import StorageError, UsageError
from bench.prediction.__main__ import main
from bench.prediction.fit import fit_slowdowns
from bench.prediction.machines import UNIT_BYTES_S, processor, recorded_machine, with_calibration
from bench.prediction.pairs import Observation, Pair, pairs_of
from bench.prediction.stored_fit import read_fit, save_fit, stored_fractions
from bench.records.metrics import Value, as_json
from refsys.costs.achievable import HOST, assumed
from refsys.costs.links import Network
from refsys.costs.time_model import overlapped, phase_terms, predict_time

PLANTED = {
    **{"linear": 1.7, "softmax": 3.0, "elementwise": 0.8, "triangle_attention": 2.2},
    **{"transition": 1.3, "reduction": 1.1, HOST: 2.5},
}
FACTS = {
    **{"parameters": 0, "components": {}, "forward_flops": 1, "forward_flops_by_component": {}},
    **{"step_flops": 1, "arithmetic": "float32", "minimum_bytes": 1, "exponentials": 0},
    **{"instructions": 0, "notes": []},
}
PROCESSOR = replace(MACHINE, is_host=True)


def random_trace(generator, operators=OPERATORS):
    """Return a step of one phase whose operators are called a random number of times."""
    drawn = {
        name: (max(1, int(calls * 8 ** generator.uniform(-1, 1))), *work)
        for name, (calls, *work) in operators.items()
        if generator.random() < 0.6
    }
    return step(operators=drawn or dict(operators), phases=("forward",))


def planted_pairs(machine, count, noise=0.0, seed=0):
    generator = random.Random(seed)
    truth = assumed().fitted(machine.name, PLANTED, records=(), accuracy=None)
    pairs = []
    for number in range(count):
        trace = random_trace(generator)
        terms, _ = phase_terms(trace, machine, Network(), assumed())
        true_terms, _ = phase_terms(trace, machine, Network(), truth)
        seconds = overlapped(true_terms["forward"], is_host=machine.is_host).seconds
        seconds *= exp(generator.gauss(0, noise))
        pairs.append(Pair(f"{number:032x}", machine, (Observation((terms["forward"],), seconds),)))
    return pairs


def test_planted_slowdowns_are_recovered():
    fit = fit_slowdowns(planted_pairs(PROCESSOR, 40))
    assert set(fit.slowdowns) <= set(PLANTED)
    assert {"linear", "triangle_attention", "elementwise"} <= set(fit.slowdowns)
    for name, slowdown in fit.slowdowns.items():
        assert slowdown == pytest.approx(PLANTED[name], rel=0.05), name
    assert fit.accuracy.median < 0.01
    assert fit.accuracy.pairs == 40
    assert len(fit.records) == 40


def test_error_left_out_is_about_the_noise_of_the_measurements():
    fit = fit_slowdowns(planted_pairs(PROCESSOR, 30, noise=0.1))
    assert 0.03 < fit.accuracy.median < 0.2
    assert fit.accuracy.median < fit.accuracy.p90 < 0.6


def test_outlier_hardly_moves_the_fit():
    pairs = planted_pairs(PROCESSOR, 40)
    (observation,) = pairs[7].observations
    wild = replace(observation, seconds=20 * observation.seconds)
    pairs[7] = replace(pairs[7], observations=(wild,))
    for name, slowdown in fit_slowdowns(pairs).slowdowns.items():
        assert slowdown == pytest.approx(PLANTED[name], rel=0.2), name


def test_host_that_the_device_hides_does_not_count_as_measured_device_time():
    fit = fit_slowdowns(planted_pairs(MACHINE, 30))
    for name in ("linear", "triangle_attention", "elementwise"):
        assert fit.slowdowns[name] == pytest.approx(PLANTED[name], rel=0.1)


def test_too_few_pairs_and_several_devices_are_refused():
    pairs = planted_pairs(MACHINE, 4)
    with pytest.raises(UsageError, match="2 pairs are too few"):
        fit_slowdowns(pairs[:2])
    with pytest.raises(UsageError, match="of several devices, a device, another"):
        fit_slowdowns([*pairs, replace(pairs[0], machine=replace(MACHINE, name="another"))])


def test_stored_fit_predicts_as_the_fit_does(tmp_path, monkeypatch):
    monkeypatch.setenv("FOLDPERF_HOME", str(tmp_path))
    assert stored_fractions(MACHINE.name) == assumed()
    fit = fit_slowdowns(planted_pairs(MACHINE, 12))
    path = save_fit(fit)
    assert read_fit(path) == fit
    fractions = stored_fractions(MACHINE.name)
    prediction = predict_time(step(), MACHINE, fractions=fractions)
    assert prediction == predict_time(step(), MACHINE, fractions=fit.achievable())
    assert prediction.accuracy == fit.accuracy
    assert "12 recorded pairs" in prediction.accuracy_text
    assert prediction.assumed_s < prediction.known_s
    other = predict_time(step(), replace(MACHINE, name="another"), fractions=fractions)
    assert other.accuracy_text == "no recorded pair"
    path.write_text("{}", encoding="utf-8")
    assert stored_fractions(MACHINE.name) == assumed()
    with pytest.raises(StorageError, match="not a readable fit"):
        read_fit(path)


def timed_record(number, **metrics):
    values = as_json({name: Value(value, "timed") for name, value in metrics.items()})
    return parsed(a_record(number, "ok", metrics=values, facts=FACTS))


def test_record_gives_a_pair_of_each_timed_phase():
    times = {f"phase_time_s.{phase}": 0.5 for phase in PHASES}
    record = timed_record(1, step_time_s=1.6, **times)
    pairs, reasons = pairs_of([record], lambda _record: step())
    assert reasons == {}
    assert [o.seconds for o in pairs[0].observations] == [0.5] * 3
    assert pairs[0].machine == processor("a cpu")
    assert pairs[0].machine.bytes_s == UNIT_BYTES_S
    whole, _ = pairs_of([timed_record(2, step_time_s=1.6)], lambda _record: step())
    (observation,) = whole[0].observations
    assert (observation.seconds, len(observation.phases)) == (1.6, 3)


def test_record_without_time_flops_or_link_gives_the_reason():
    def reason(record, trace):
        pairs, reasons = pairs_of([record], lambda _record: trace)
        assert pairs == []
        return reasons[record.run_id]

    timed = timed_record(1, step_time_s=1.0)
    assert reason(parsed(a_record(2)), step()) == "no step time was measured"
    assert "multiplies no matrices" in reason(timed, replace(step(), costs={}))
    unpriced = replace(step(), unpriced=("x.y.default",))
    assert "FLOPs of x.y.default" in reason(timed, unpriced)


def test_measured_rates_replace_unit_rates_of_a_processor():
    calibration = Calibration(bytes_s=2e10, flops={"float32": 1e11})
    machine = with_calibration(processor("a cpu"), calibration)
    assert machine.is_achieved("bytes")
    assert machine.is_achieved("products", "float32")
    assert not machine.is_achieved("products", "bfloat16")
    assert (machine.bytes_s, machine.flops["float32"]) == (2e10, 1e11)


def test_device_without_records_uses_what_is_listed():
    record = timed_record(1, step_time_s=1.0)
    (device,) = record.devices
    listed = replace(record, devices=(replace(device, name="NVIDIA H200", kind="cuda"),))
    machine = recorded_machine(listed, [])
    assert not machine.is_host
    assert machine.power_w == 700
    assert not machine.achieved


def test_command_fits_each_device_that_has_enough_pairs(tmp_path, monkeypatch, capsys):
    pairs = planted_pairs(MACHINE, 5)
    other = replace(MACHINE, name="another")
    lone = replace(pairs[0], machine=other)
    monkeypatch.setattr("bench.prediction.__main__.pairs_of", lambda _records: ([*pairs, lone], {}))
    out = tmp_path / "fit.json"
    assert main([str(tmp_path), "--out", str(out)]) == 0
    assert read_fit(out) == fit_slowdowns(pairs)
    said = capsys.readouterr()
    assert "a device: 5 pairs" in said.out
    assert "another left out: 1 pairs are too few" in said.err
    many = [*pairs, *(replace(pair, machine=other) for pair in pairs)]
    monkeypatch.setattr("bench.prediction.__main__.pairs_of", lambda _records: (many, {}))
    assert main([str(tmp_path), "--out", str(out)]) == 2
    assert "--out takes the fit of one device" in capsys.readouterr().err


def test_command_without_usable_records_says_so(tmp_path, capsys):
    (tmp_path / "records.jsonl").write_text("", encoding="utf-8")
    assert main([str(tmp_path)]) == 2
    assert "no device has 3 records with a measured and a predicted time" in capsys.readouterr().err
