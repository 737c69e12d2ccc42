"""Memory of a sharded training step at 2,048 tokens, traced with the widths of the full model.

The trunk stands for the whole model, whose trace takes minutes: `support/traced_steps.py` has it.
"""

import pytest
from support.traced_steps import LARGEST_SHARDS, RANKS, shards, traced_step

# The whole model's is 1.1. A trunk with few blocks saves few activations, so that the bias of
# attention, which every rank gathers, is a larger part of its peak.
SLACK = 1.15


@pytest.fixture(scope="module")
def sharded():
    return traced_step("trunk", RANKS)


def test_no_tensor_of_a_step_on_sixteen_ranks_exceeds_four_shards(sharded):
    """Forward, backward and optimizer; gathered parameters and the whole batch included."""
    assert 1 <= shards(sharded, RANKS) <= LARGEST_SHARDS, sharded.at


def test_peak_of_a_rank_falls_with_the_number_of_ranks(sharded):
    """Parameters and optimizer are sharded, and each rank computes a quarter of its rows at once.

    Parameters that are gathered for a block count in full.
    """
    one = traced_step("trunk", 1)
    assert sharded.trace.peak.nbytes <= SLACK * one.trace.peak.nbytes / RANKS
    optimizer = [s.trace.peak.by_state["optimizer"] for s in (one, sharded)]
    assert optimizer[1] == pytest.approx(optimizer[0] / RANKS, rel=0.02)
