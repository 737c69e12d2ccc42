"""Roofline bounds: the scarcest resource decides."""

import pytest

from refsys.costs.roofline import DeviceRates, Work, roofline

WORK = Work(flops=600, nbytes=50, exponentials=8, instructions=10)
RATES = DeviceRates(flops_s=100, bytes_s=10, exponentials_s=4, instructions_s=5)


def test_bound_is_the_largest_of_the_times_by_resource():
    bounds = roofline(WORK, RATES)
    assert bounds.seconds == {
        "products": 6.0,
        "bytes": 5.0,
        "exponentials": 2.0,
        "instructions": 2.0,
    }
    assert bounds.bound_s == 6.0
    assert bounds.unknown == ()


@pytest.mark.parametrize("factor", [2, 10])
def test_bound_scales_with_work_and_inversely_with_rates(factor):
    more = Work(**{name: factor * getattr(WORK, name) for name in Work.__slots__})
    faster = DeviceRates(**{name: factor * getattr(RATES, name) for name in DeviceRates.__slots__})
    assert roofline(more, RATES).bound_s == factor * roofline(WORK, RATES).bound_s
    assert roofline(more, faster).seconds == roofline(WORK, RATES).seconds


def test_resource_that_is_used_and_has_no_rate_is_unknown():
    bounds = roofline(WORK, DeviceRates(flops_s=100))
    assert bounds.unknown == ("bytes", "exponentials", "instructions")
    assert bounds.seconds == {"products": 6.0}


def test_resource_that_is_not_used_needs_no_rate():
    assert roofline(Work(flops=1), DeviceRates(flops_s=2)).unknown == ()
    assert roofline(Work(), DeviceRates()).bound_s is None
