"""Statistics of samples, and metrics as a record holds them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.devices import Unavailable
from bench.records.metrics import METRICS, Value, as_json, from_samples, median_interval, missing


class TestMedian:
    @given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60))
    def test_interval_holds_the_median_and_has_its_coverage(self, samples):
        low, high, coverage = median_interval(samples)
        assert min(samples) <= low <= np.median(samples) <= high <= max(samples)
        assert coverage <= 1

    @pytest.mark.parametrize("n", [6, 9, 15, 30])
    def test_median_interval_has_its_stated_coverage(self, n):
        """The stated share of intervals from a skewed distribution contains its true median."""
        random = np.random.default_rng(3)
        found = [median_interval(random.exponential(size=n).tolist()) for _ in range(4000)]
        held = np.mean([low <= math.log(2) <= high for low, high, _ in found])
        coverage = found[0][2]
        assert coverage >= 0.95
        assert abs(held - coverage) < 0.02

    def test_interval_of_few_samples_has_its_lower_coverage(self):
        assert median_interval([1.0, 2.0, 3.0]) == (1.0, 3.0, 0.75)

    def test_interval_of_a_single_sample_has_no_coverage(self):
        assert median_interval([1.0]) == (1.0, 1.0, 0.0)


class TestJson:
    def test_figure_that_is_not_finite_is_null_with_a_reason(self):
        values = {"step_time_s": Value(math.inf, "m"), "energy_per_step_j": missing("no counter")}
        found = as_json(values)
        assert found["step_time_s"]["value"] is None
        assert "not finite" in found["step_time_s"]["reason"]
        assert found["energy_per_step_j"]["reason"] == "no counter"

    def test_parts_have_the_unit_of_their_whole(self):
        found = as_json({"phase_time_s.forward": from_samples([1.0, 2.0], "m")})
        assert found["phase_time_s.forward"]["unit"] == METRICS["phase_time_s"].unit
        assert found["phase_time_s.forward"]["samples"] == [1.0, 2.0]


def test_unavailable_has_the_remedy():
    assert Unavailable("why", "how").unlock == "how"
