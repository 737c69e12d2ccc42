"""Time limits that follow the machine's speed."""

import pytest

from bench.run.time_limits import LARGEST_FACTOR, REFERENCE_S, TimeLimits, fixed_workload


def limits(*slowness, nominal_s=300.0):
    """Return limits on a machine with scripted slowness, relative to the reference."""
    seconds = iter([REFERENCE_S * factor for factor in slowness])
    return TimeLimits(nominal_s, scaled=True, measure=lambda: next(seconds))


@pytest.mark.parametrize(("slowness", "factor"), [(3.0, 3.0), (0.5, 1.0), (1000.0, LARGEST_FACTOR)])
def test_limit_grows_with_the_time_of_the_workload_between_bounds(slowness, factor):
    limit = limits(slowness).current
    assert limit.factor == pytest.approx(factor)
    assert limit.seconds == pytest.approx(300 * factor)


def test_limit_is_taken_literally_when_it_is_not_scaled():
    def measure():
        raise AssertionError("the machine's speed does not matter")

    literal = TimeLimits(40.0, scaled=False, measure=measure)
    assert (literal.current.seconds, literal.current.factor) == (40.0, None)
    assert literal.longer() is None


def test_machine_is_measured_once_until_a_case_takes_too_long():
    several = limits(2.0)
    assert several.current is several.current


def test_limit_is_longer_when_the_machine_became_slower():
    several = limits(1.0, 4.0)
    assert several.current.seconds == pytest.approx(300)
    assert several.longer().seconds == pytest.approx(1200)
    assert several.current.seconds == pytest.approx(1200), "of later cases, too"


@pytest.mark.parametrize("slowness", [2.0, 2.1, 1.0])
def test_limit_is_no_longer_when_the_machine_is_as_slow_as_before(slowness):
    several = limits(2.0, slowness)
    assert several.current
    assert several.longer() is None


def test_limit_states_its_factor():
    assert str(limits(1.0).current) == "300 s"
    assert str(limits(3.0).current) == "900 s (300 s for a machine 3.0 times as fast)"


def test_fixed_workload_takes_a_finite_time():
    assert 0 < fixed_workload() < float("inf")
