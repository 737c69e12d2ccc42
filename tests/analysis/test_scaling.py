"""Fitted power laws: recovery, sizes, intervals."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.scaling import fit_power_law, largest_sizes


@given(st.floats(0.5, 4), st.floats(1e-6, 1e6), st.integers(4, 8))
def test_fit_recovers_an_exact_power_law(exponent, factor, count):
    points = [(2.0**k, factor * 2.0 ** (k * exponent)) for k in range(count)]
    law = fit_power_law(points)
    assert law.exponent == pytest.approx(exponent, abs=1e-6)
    assert law.at(1.0) == pytest.approx(factor, rel=1e-6)
    assert law.interval[0] <= law.exponent <= law.interval[1]
    assert law.largest == 2.0 ** (count - 1)


def test_fit_ignores_constants_at_small_sizes():
    points = [(n, 1e6 + n**3) for n in (8, 16, 32, 256, 320, 384, 448, 512)]
    assert fit_power_law(points).exponent == pytest.approx(3, abs=0.1)
    assert largest_sizes([n for n, _ in points]) == [256, 320, 384, 448, 512]


def test_law_needs_four_sizes_and_a_margin_of_at_most_0_3():
    assert fit_power_law([]) is None
    assert fit_power_law([(8, 1.0), (8, 2.0), (0, 3.0), (16, 0.0)]) is None
    exact = [(n, float(n**2)) for n in (8, 16, 32, 64)]
    assert fit_power_law(exact[1:]) is None
    assert str(fit_power_law(exact)) == "N^2.00 ± 0.00"
    bent = [(n, y * (2 if n == 16 else 1)) for n, y in exact]
    assert fit_power_law(bent) is None


def test_band_combines_the_errors_of_mean_and_slope():
    points = [(n, n**2 * (1 + 0.02 * (-1) ** k)) for k, n in enumerate((64, 80, 96, 112, 128))]
    law = fit_power_law(points)
    middle = math.exp(law.centre)
    low, high = law.band(middle)
    assert low * high == pytest.approx(law.at(middle) ** 2)
    # Widest at the ends, where an error of the slope shows most.
    widths = [math.log(law.band(n)[1] / law.band(n)[0]) for n in (64, middle, 128)]
    assert widths[1] < widths[0]
    assert widths[1] < widths[2]
    # By the textbook: s² (1/n + (x - mean)² / Sxx), times Student's quantile.
    from scipy import stats

    x = [math.log(n) for n, _ in points]
    fit = stats.linregress(x, [math.log(y) for _, y in points])
    sxx = sum((value - law.centre) ** 2 for value in x)
    residual = fit.stderr * math.sqrt(sxx)
    expected = stats.t.ppf(0.975, 3) * residual * math.sqrt(1 / 5 + (x[-1] - law.centre) ** 2 / sxx)
    assert widths[2] / 2 == pytest.approx(expected)
