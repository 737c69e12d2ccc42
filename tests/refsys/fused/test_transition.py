"""Transition's kernels against its reference, in Triton's interpreter."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.accuracy import F64, assert_exact

from refsys.ops.backend import OPERATORS
from refsys.ops.transition import TransitionWeights, transition
from refsys.ops.triton_backend import use_launch_options

OPERATOR = OPERATORS["transition"]
DTYPES = torch.float32, torch.float16
SMALL = {
    f"transition.{kernel}": {"BLOCK_ROWS": 16, "BLOCK_HIDDEN": 16}
    for kernel in ("forward", "backward_rows", "backward_weights")
}


def draw(shape, hidden, seed=0):
    """Draw x and weights at a scale that keeps the hidden layer's at one."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes):
        return torch.randn(sizes, generator=generator, dtype=F64)

    width = shape[-1]
    weights = normal(2 * hidden, width) / width**0.5, normal(width, hidden) / hidden**0.5
    return normal(*shape), 1 + normal(width) / 4, normal(width) / 4, *weights


def results(tensors, residual=True):
    inputs = [t.float().requires_grad_() for t in tensors]
    x, *weights = inputs
    options = {"statistics": torch.float32, "residual": residual, "backend": "triton"}
    out = transition(x, TransitionWeights(*weights), **options)
    towards = torch.linspace(-1, 1, out.shape[-1]).expand_as(out)
    return out.detach(), *torch.autograd.grad(out, inputs, towards)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 33)),
    width=st.sampled_from([1, 8, 24, 32, 64]),
    hidden=st.sampled_from([1, 16, 40, 128]),
    residual=st.booleans(),
    dtype=st.sampled_from(DTYPES),
)
def test_transition_is_exact_for_any_shape(shape, width, hidden, residual, dtype):
    options = {"statistics": F64, "residual": residual}
    with use_launch_options(SMALL):
        assert_exact(OPERATOR, draw((*shape, width), hidden), options, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "hidden"), [((1, 5, 7, 128), 512), ((1, 30, 384), 512)])
def test_transition_is_exact_for_the_widths_of_pair_and_single_tracks(shape, hidden, dtype):
    options = {"statistics": F64, "residual": True}
    assert_exact(OPERATOR, draw(shape, hidden), options, dtype)


@pytest.mark.bits
def test_strides_are_free_and_rows_are_independent():
    x, *parameters = draw((2, 6, 5, 8), 16)
    dense = results((x, *parameters))
    turned = results((x.transpose(1, 2).contiguous().transpose(1, 2), *parameters))
    for one, other in zip(turned, dense, strict=True):
        assert torch.equal(one, other)
    slab = results((x[:, 2:5], *parameters))
    assert torch.equal(slab[0], dense[0][:, 2:5])
    assert torch.equal(slab[1], dense[1][:, 2:5])


@pytest.mark.bits
def test_two_runs_give_the_same_bits():
    tensors = draw((3, 40, 16), 40)
    with use_launch_options(SMALL):
        for one, other in zip(results(tensors), results(tensors), strict=True):
            assert torch.equal(one, other)


def test_custom_operator_passes_opcheck():
    from refsys.ops.transition import triton

    inputs = [t.float().requires_grad_() for t in draw((2, 3, 8), 16)]
    checks = "test_schema", "test_autograd_registration", "test_faketensor"
    torch.library.opcheck(triton.forward, (*inputs, True), test_utils=checks)


def test_gradients_have_the_dtype_of_their_weights():
    x, *parameters = draw((2, 3, 8), 16)
    inputs = [x.half().requires_grad_(), *(t.float().requires_grad_() for t in parameters)]
    weights = TransitionWeights(*inputs[1:])
    out = transition(inputs[0], weights, statistics=torch.float32, backend="triton")
    gradients = torch.autograd.grad(out.sum(), inputs)
    assert [g.dtype for g in gradients] == [torch.float16, *[torch.float32] * 4]
