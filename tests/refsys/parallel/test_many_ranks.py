"""Each kind of block on 16 and 64 ranks has the outputs and gradients of one rank."""

from functools import cache

import pytest
from support.sharded_blocks import KINDS, divided, serial

from refsys.parallel.schemes import MegaFold

TOLERANCE = 1e-10
# They shift all logits of a softmax alike: their gradients are zero but for rounding.
SHIFTS = ("attention_pair_bias.norm_z.bias", "pair_weighted_averaging.norm_z.bias")
# Blocks that stream the bias of triangle attention. On 64 ranks that would be 63 exchanges each.
STREAMED = {16: ("pairformer",), 64: ()}


@cache
def many(ranks):
    return divided(ranks, streamed=STREAMED[ranks])


def errors(result, expected):
    """Return the error of each tensor, relative to its largest value; of zeros, to all others."""
    assert result.parameters.keys() == expected.parameters.keys()
    outputs = zip(result.outputs, expected.outputs, strict=True)
    named = [
        *((f"output {number}", *both) for number, both in enumerate(outputs)),
        *((name, result.inputs[name], gradient) for name, gradient in expected.inputs.items()),
        *((name, result.parameters[name], p) for name, p in expected.parameters.items()),
    ]
    largest = max(float(p.abs().max()) for p in expected.parameters.values())
    found = {}
    for name, value, reference in named:
        if reference is None:
            assert value is None, name
            continue
        scale = 1e-5 * largest if name.endswith(SHIFTS) else float(reference.abs().max())
        assert scale > 0, name
        found[name] = float((value - reference).abs().max()) / scale
    return found


@pytest.mark.parametrize("ranks", STREAMED)
@pytest.mark.parametrize("name", KINDS)
def test_block_on_many_ranks_equals_one_rank(name, ranks):
    """Outputs and gradients of inputs and parameters, with dropout, padding and random weights."""
    found = errors(many(ranks)[name], serial()[name])
    assert {tensor: error for tensor, error in found.items() if error > TOLERANCE} == {}


def test_dropped_gradients_of_other_ranks_are_found():
    """The gathers of MegaFold have right outputs and wrong gradients."""
    found = errors(divided(16, ["template"], scheme=MegaFold)["template"], serial()["template"])
    assert found["output 0"] < TOLERANCE
    assert found["z"] > 0.01
