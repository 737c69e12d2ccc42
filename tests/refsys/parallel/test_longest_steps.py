"""Longest examples on a number of ranks, with the options of a default run."""

from math import floor, sqrt

import pytest
from support.closed_forms import forward
from support.longest_steps import LEAST, TILE, configuration, longest, traced_step
from support.traced_growth import TOLERANCE, over_closed_forms
from support.traced_steps import MODEL

# The options decide the longest example of the full model, which `support/longest_steps.py` traces;
# here a stack has one block.
TOKENS, RANKS = 1024, 4
SMALL = {"alignment_rows": 64, "samples": 2}


@pytest.fixture(scope="module")
def one():
    return traced_step(configuration(TOKENS, 1, **SMALL), MODEL)


def test_length_grows_with_the_root_of_the_ranks(one):
    """In the memory of one rank."""
    tokens = floor(LEAST * sqrt(RANKS) * TOKENS / TILE) * TILE
    many = traced_step(configuration(tokens, RANKS, **SMALL), MODEL)
    assert many.peak.nbytes <= one.peak.nbytes


def test_traced_flops_of_each_part_equal_the_closed_forms(one):
    """Fused operators in the forward phases; squares and cubes of the length are about equal."""
    ratios = over_closed_forms(one, forward(TOKENS, samples=2, rows=64, model=MODEL))
    assert len(ratios) == 5
    assert ratios == {part: pytest.approx(1, abs=TOLERANCE) for part in ratios}


@pytest.mark.parametrize("start", [TILE, 640, 4096])
@pytest.mark.parametrize("edge", [TILE - 1, TILE, 1000, 1024, 1055, 30_000])
@pytest.mark.parametrize("constant", [0, 10_000, 3_000_000])
def test_longest_length_is_found_to_a_tile_in_few_traces(start, edge, constant):
    lengths = []

    def peak(tokens):
        lengths.append(tokens)
        return constant + 7 * tokens + tokens**2

    limit, known = peak(edge), {}
    length = longest(peak, limit, start, known)
    assert edge // TILE - 1 <= length / TILE <= edge // TILE
    assert length in {0, *(tokens for tokens, nbytes in known.items() if nbytes <= limit)}
    assert len(lengths) <= 5
