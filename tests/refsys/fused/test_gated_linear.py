"""A gated linear layer: the kernels against the reference, in Triton's interpreter."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.accuracy import F64, assert_exact

from refsys.errors import ArgumentError
from refsys.ops.backend import OPERATORS
from refsys.ops.gated_linear import gated_linear
from refsys.ops.triton_backend import use_launch_options

OPERATOR = OPERATORS["gated_linear"]
DTYPES = torch.float32, torch.float16
SMALL = {
    "gated_linear.forward": {"BLOCK_ROWS": 16, "BLOCK_WIDTH": 64, "BLOCK_OUT": 32},
    "gated_linear.backward": {"BLOCK_ROWS": 16, "BLOCK_OUT": 64},
}


def draw(shape, out, *, residual=True, keep=True, seed=0):
    """Draw x, the gate's logits, weight, residual and mask; None for absent ones."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes):
        return torch.randn(sizes, generator=generator, dtype=F64)

    batch, rows, tokens, width = shape
    mask = torch.rand(batch, tokens, out, generator=generator) > 0.3
    return (
        normal(*shape),
        normal(*shape),
        normal(out, width) / width**0.5,
        normal(batch, rows, tokens, out) if residual else None,
        mask if keep and residual else None,
    )


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 9)),
    width=st.sampled_from([1, 24, 64, 100]),
    out=st.sampled_from([1, 24, 100]),
    beside=st.sampled_from([(False, False), (True, False), (True, True)]),
    dtype=st.sampled_from(DTYPES),
)
def test_gated_linear_is_exact_for_any_shape(shape, width, out, beside, dtype):
    residual, keep = beside
    tensors = draw((*shape, width), out, residual=residual, keep=keep)
    with use_launch_options(SMALL):
        assert_exact(OPERATOR, tensors, {"rate": 0.25}, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 5, 13, 128), (1, 1, 30, 384)])
def test_gated_linear_is_exact_for_the_widths_of_pair_and_single_tracks(shape, dtype):
    assert_exact(OPERATOR, draw(shape, shape[-1]), {"rate": 0.25}, dtype)


@pytest.mark.bits
def test_strides_are_free_and_two_runs_give_the_same_bits():
    x, gate, weight, residual, keep = (
        tensor if tensor.dtype == torch.bool else tensor.float()
        for tensor in draw((2, 5, 6, 16), 16)
    )
    runs = []
    for turned in (False, True, False):
        among = torch.cat([x, gate, x], dim=-1)[..., 16:32] if turned else gate
        beside = residual.transpose(1, 2).contiguous().transpose(1, 2) if turned else residual
        inputs = [t.detach().requires_grad_() for t in (x, among, weight, beside)]
        out = gated_linear(*inputs, keep, rate=0.5, backend="triton")
        assert out.stride() == beside.stride()
        towards = torch.linspace(-1, 1, out.numel()).view(out.shape)
        if turned:
            towards = towards.transpose(1, 2).contiguous().transpose(1, 2)
        runs.append([out.detach(), *torch.autograd.grad(out, inputs, towards)])
    for one, other in itertools.pairwise(runs):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_error_names_the_wrong_argument():
    x, gate, weight, residual, keep = draw((1, 3, 5, 16), 8)
    with pytest.raises(ArgumentError, match="gate has shape"):
        gated_linear(x, gate[..., 1:], weight)
    with pytest.raises(ArgumentError, match="keep drops parts of an update: it needs a residual"):
        gated_linear(x, gate, weight, None, keep, rate=0.5)
    with pytest.raises(ArgumentError, match=r"rate=1 is outside \[0, 1\)"):
        gated_linear(x, gate, weight, residual, keep, rate=1)
    with pytest.raises(ArgumentError, match=r"residual is torch\.float32; expected torch\.float64"):
        gated_linear(x, gate, weight, residual.float())


def test_custom_operator_passes_opcheck():
    from refsys.ops.gated_linear import triton

    *tensors, keep = draw((1, 3, 4, 8), 8)
    inputs = [tensor.float().requires_grad_() for tensor in tensors]
    checks = "test_schema", "test_autograd_registration", "test_faketensor"
    torch.library.opcheck(triton.forward, (*inputs, keep, 0.25), test_utils=checks)
