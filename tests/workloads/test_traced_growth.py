"""Exponents of traced costs, and FLOPs of a language model in closed form."""

import pytest
from support.traced_growth import bloom_ratios, exponents, fitted_exponent, traced


def test_traced_flops_of_a_language_model_equal_the_closed_form():
    trace = traced("transformer", 1536)
    assert bloom_ratios(trace, 1536) == {"step": pytest.approx(1, abs=1e-3)}


def test_exponent_of_a_power_law_is_its_exponent():
    tokens = (384, 768, 3072)
    values = [3.0 * n**1.5 for n in tokens]
    assert exponents(tokens, values) == pytest.approx([1.5, 1.5])
    assert fitted_exponent(tokens, values) == pytest.approx(1.5)
