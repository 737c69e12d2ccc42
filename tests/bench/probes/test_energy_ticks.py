"""Energy between ticks: exact, with an interval that covers; mutants fail."""

from bisect import bisect_right

import numpy as np
import pytest
from support.counted_energy import SeededRun

from bench.devices.device import EnergyReading
from bench.probes.energy_ticks import TickLog, Ticks, TicksError, energy_between, idle_energy

RUNS = 1000


def beside(run):
    margin = 2.5 * run.log.period()
    return run.start - margin, run.stop + margin


def interpolated(run):
    return energy_between(Ticks.of(run.log), run.start, run.stop, beside(run)).joules


def naive(run):
    """Mutant: read the counter at start and end, at any position within a tick."""
    first, last = (bisect_right(run.log.times, end) - 1 for end in (run.start, run.stop))
    return run.log.joules[last] - run.log.joules[first]


def with_idle_tail(run):
    """Mutant: wait before reading, while the device idles at a sixth of its power."""
    return interpolated(run) + run.watts / 6 * run.idle_tail_s


def without_the_ends(run):
    """Mutant: use the first and the last tick in the window."""
    inside = [k for k, time in enumerate(run.log.times) if run.start < time <= run.stop]
    return run.log.joules[inside[-1]] - run.log.joules[inside[0]]


@pytest.fixture(scope="module", params=[False, True], ids=["polled", "own clock"])
def runs(request):
    return [SeededRun.draw(seed, own_clock=request.param) for seed in range(RUNS)]


def shares(runs, estimator):
    """Return the share of runs whose interval covers the truth, and the largest relative error."""
    errors, halves = [], []
    for run in runs:
        half = energy_between(Ticks.of(run.log), run.start, run.stop, beside(run)).error
        errors.append((estimator(run) - run.truth) / run.truth)
        halves.append(half / run.truth)
    errors, halves = np.abs(errors), np.array(halves)
    return np.mean(errors <= halves), errors, halves


def test_interval_covers_the_true_energy_of_seeded_runs(runs):
    covered, errors, halves = shares(runs, interpolated)
    assert covered >= 0.93
    assert errors.max() < 0.01
    # Close to the narrowest possible interval of 95 %: 1.96 would be exact.
    assert 1 < np.median(halves) / np.sqrt(np.mean(errors**2)) < 3
    assert np.median(halves) < 0.004


@pytest.mark.parametrize("mutant", [naive, with_idle_tail, without_the_ends])
def test_mutant_estimator_fails_the_coverage(runs, mutant):
    covered, errors, _ = shares(runs[:200], mutant)
    assert covered < 0.5
    assert errors.max() > 0.01


def log_of(times, joules, device_times=None):
    log = TickLog()
    log.add(times[0] - 1, EnergyReading(-1.0))
    for k, (time, energy) in enumerate(zip(times, joules, strict=True)):
        log.add(time - 0.001, EnergyReading(log.joules[-1] if log.joules else -1.0))
        log.add(time + 0.001, EnergyReading(energy, device_times[k] if device_times else None))
    return log


def test_tick_lies_in_the_middle_of_the_polls_around_it():
    log = TickLog()
    assert not log.add(1.0, EnergyReading(5.0))
    assert not log.add(1.5, EnergyReading(5.0))
    assert log.add(2.5, EnergyReading(7.0))
    assert (log.times, log.joules) == ([2.0], [7.0])
    assert log.period() is None


def test_counter_is_linear_between_ticks_and_constant_outside_them():
    ticks = Ticks.of(log_of([1.0, 2.0, 4.0], [10.0, 20.0, 60.0]))
    moments = (0.5, 1.0, 1.5, 3.0, 4.0, 9.0)
    assert [ticks.at(moment) for moment in moments] == pytest.approx([10, 10, 15, 40, 60, 60])


def test_device_times_are_mapped_to_the_hosts_clock():
    random = np.random.default_rng(1)
    moments = np.arange(60) * 0.1
    jittered = list(moments + random.normal(0, 0.01, 60))
    ticks = Ticks.of(log_of(jittered, list(500 * moments), list(7 + 1.001 * moments)))
    assert ticks.by_device
    assert np.abs(ticks.times - moments).max() < 0.006
    assert 0 < ticks.clock_error_s < 0.02


@pytest.mark.parametrize("rate", [1e3, 0.0, -1.0], ids=["another unit", "frozen", "backwards"])
def test_device_clock_of_wrong_rate_is_ignored(rate):
    moments = list(np.arange(30) * 0.1)
    ticks = Ticks.of(log_of(moments, moments, [5 + rate * moment for moment in moments]))
    assert not ticks.by_device
    assert list(ticks.times) == pytest.approx(moments)


def test_decreasing_counter_is_an_error():
    moments = [0.1 * k for k in range(8)]
    with pytest.raises(TicksError, match="counter went backwards"):
        Ticks.of(log_of(moments, [8.0 - m for m in moments]))


def test_too_few_ticks_raise_and_few_ticks_widen_the_interval():
    moments = [0.1 * k for k in range(7)]
    ticks = Ticks.of(log_of(moments, [500 * m for m in moments]))
    with pytest.raises(TicksError, match=r"2 ticks of the energy counter in 0\.2 s are too few"):
        energy_between(ticks, 0.25, 0.45, (0, 1))
    with pytest.raises(TicksError, match="both before and after"):
        energy_between(ticks, 0.15, 0.65, (0, 1))
    energy = energy_between(ticks, 0.15, 0.45, (0.1, 0.5))
    assert energy.joules == pytest.approx(150)
    # Each end contributes half a tick.
    assert energy.error == pytest.approx(2**0.5 * 25, rel=0.05)


def test_idle_power_is_taken_between_ticks():
    moments = [0.1 * k for k in range(12)]
    ticks = Ticks.of(log_of(moments, [70 * m for m in moments]))
    energy = idle_energy(ticks, 0.05, 1.05)
    assert energy.watts == pytest.approx(70)
    assert energy.ticks == 10
    with pytest.raises(TicksError, match="2 ticks"):
        idle_energy(ticks, 0.25, 0.45)
