"""FLOPs of traced steps at the widths of the full model equal closed forms."""

import pytest
from support.closed_forms import forward
from support.longest_steps import configuration
from support.longest_steps import traced_step as traced_training
from support.traced_growth import (
    TOLERANCE,
    bloom_ratios,
    exponents,
    fitted_exponent,
    over_closed_forms,
    traced,
)
from support.traced_steps import MODEL

# The squares and the cubes of a Pairformer block are about equal here.
TOKENS = 768


def test_traced_flops_of_each_part_equal_the_closed_forms():
    """With fused operators and one block of each kind; recomputation is apart."""
    sizes = {"alignment_rows": 1024, "samples": 48}
    trace = traced_training(configuration(TOKENS, 1, **sizes), MODEL)
    ratios = over_closed_forms(trace, forward(TOKENS, samples=48, rows=1024, model=MODEL))
    assert len(ratios) == 5
    assert ratios == {part: pytest.approx(1, abs=TOLERANCE) for part in ratios}


def test_traced_flops_of_a_language_model_equal_the_closed_form():
    trace = traced("transformer", 1536)
    assert bloom_ratios(trace, 1536) == {"step": pytest.approx(1, abs=1e-3)}


def test_exponent_of_a_power_law_is_its_exponent():
    tokens = (384, 768, 3072)
    values = [3.0 * n**1.5 for n in tokens]
    assert exponents(tokens, values) == pytest.approx([1.5, 1.5])
    assert fitted_exponent(tokens, values) == pytest.approx(1.5)
