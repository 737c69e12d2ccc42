"""LayerNorm with linear layers: the kernels against their references, in Triton's interpreter."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.accuracy import F64, assert_exact

from refsys.errors import ArgumentError
from refsys.ops.backend import OPERATORS
from refsys.ops.layer_norm_linear import (
    AttentionProjectionWeights,
    LinearWeights,
    PairBiasWeights,
    attention_projection,
    layer_norm_linear,
    pair_bias,
)
from refsys.ops.triton_backend import use_launch_options

DTYPES = torch.float32, torch.float16
SMALL = {
    **{
        f"layer_norm_linear.{kernel}": {"BLOCK_ROWS": 16, "BLOCK_OUT": 16}
        for kernel in ("forward", "backward")
    },
    **{
        f"layer_norm_linear.{kernel}": {"BLOCK_ROWS": 16, "BLOCK_WIDTH": 64, "BLOCK_OUT": 32}
        for kernel in ("forward_wide", "product")
    },
    "layer_norm_linear.backward_wide": {"BLOCK_ROWS": 16, "BLOCK_WIDTH": 64},
    "planes.outer": {"BLOCK_ROWS": 16, "BLOCK_OUT": 16, "BLOCK_WIDTH": 64},
}


def normal(generator, *sizes):
    return torch.randn(sizes, generator=generator, dtype=F64)


def draw(shape, out, *, scale=True, shift=True, bias=0, heads=0, seed=0):
    """Draw x, the LayerNorm's weights, weight, bias, heads' weight; None for absent ones."""
    generator = torch.Generator().manual_seed(seed)
    width = shape[-1]
    return (
        normal(generator, *shape),
        1 + normal(generator, width) / 4 if scale else None,
        normal(generator, width) / 4 if shift else None,
        normal(generator, out, width) / width**0.5,
        normal(generator, bias) if bias else None,
        normal(generator, heads, width) / width**0.5 if heads else None,
    )


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    shape=st.lists(st.integers(1, 5), max_size=3),
    width=st.sampled_from([1, 8, 24, 128, 129, 200]),
    out=st.sampled_from([1, 24, 40]),
    norm=st.sampled_from([(True, True), (True, False), (False, False)]),
    bias=st.booleans(),
    dtype=st.sampled_from(DTYPES),
)
def test_layer_norm_linear_is_exact_for_any_shape(shape, width, out, norm, bias, dtype):
    scale, shift = norm
    *tensors, _heads = draw((*shape, width), out, scale=scale, shift=shift, bias=bias * (out // 2))
    with use_launch_options(SMALL):
        assert_exact(OPERATORS["layer_norm_linear"], tensors, {"statistics": F64}, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("width", "out"), [(384, 96), (833, 64)])
def test_layer_norm_linear_is_exact_for_wide_rows(width, out, dtype):
    *tensors, _heads = draw((1, 20, width), out, bias=out)
    assert_exact(OPERATORS["layer_norm_linear"], tensors, {"statistics": F64}, dtype)


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 17)),
    width=st.sampled_from([8, 24, 128]),
    heads=st.sampled_from([1, 4, 16]),
    dtype=st.sampled_from(DTYPES),
)
def test_attention_projection_and_pair_bias_are_exact_for_any_shape(shape, width, heads, dtype):
    x, scale, shift, weight, _bias, head = draw((*shape, width), 2 * width, heads=heads)
    with use_launch_options(SMALL):
        whole, alone = (x, scale, shift, weight, head), (x, scale, shift, head)
        assert_exact(OPERATORS["attention_projection"], whole, {"statistics": F64}, dtype)
        assert_exact(OPERATORS["pair_bias"], alone, {"statistics": F64}, dtype)


def gradients(out, inputs):
    towards = [torch.linspace(-1, 1, tensor.numel()).view(tensor.shape) for tensor in out]
    leaves = [tensor for tensor in inputs if tensor.requires_grad]
    return [tensor.detach() for tensor in out], torch.autograd.grad(out, leaves, towards)


@pytest.mark.bits
@pytest.mark.parametrize("width", [16, 160])
def test_strides_are_free_and_two_runs_give_the_same_bits(width):
    x, *weights, _heads = (
        None if tensor is None else tensor.float() for tensor in draw((2, 5, 6, width), 24, bias=7)
    )
    runs = []
    for strided in (x, x.transpose(1, 2).contiguous().transpose(1, 2), x):
        inputs = [strided.detach().requires_grad_(), *(t.clone().requires_grad_() for t in weights)]
        options = {"statistics": torch.float32, "backend": "triton"}
        out = layer_norm_linear(inputs[0], LinearWeights(*inputs[1:]), **options)
        runs.append(gradients([out], inputs))
    for (outs, grads), (same_outs, same_grads) in itertools.pairwise(runs):
        for one, other in zip([*outs, *grads], [*same_outs, *same_grads], strict=True):
            assert torch.equal(one, other)


@pytest.mark.bits
def test_projection_of_a_slab_equals_that_part_of_the_full_projection():
    x, scale, shift, weight, _bias, heads = (
        None if tensor is None else tensor.float() for tensor in draw((1, 6, 5, 16), 32, heads=2)
    )
    options = {"statistics": torch.float32, "backend": "triton"}
    weights = AttentionProjectionWeights(scale, shift, weight, heads)
    whole, bias = attention_projection(x, weights, **options)
    slab, slab_bias = attention_projection(x[:, 2:5], weights, **options)
    assert torch.equal(slab, whole[:, 2:5])
    assert torch.equal(slab_bias, bias[:, :, 2:5])
    assert slab_bias.is_contiguous()


def test_attention_projection_differentiates_the_bias_alone():
    tensors = draw((1, 3, 5, 16), 32, heads=2)
    x, scale, shift, weight, heads = (
        tensor.float().requires_grad_() for tensor in tensors if tensor is not None
    )
    options = {"statistics": torch.float32, "backend": "triton"}
    weights = AttentionProjectionWeights(scale, shift, weight, heads)
    _out, bias = attention_projection(x, weights, **options)
    alone = pair_bias(x, PairBiasWeights(scale, shift, heads), **options)
    fused, expected = (
        torch.autograd.grad(result.sum(), (x, scale, heads)) for result in (bias, alone)
    )
    for gradient, other in zip(fused, expected, strict=True):
        torch.testing.assert_close(gradient, other)


def test_error_names_the_wrong_argument():
    x, scale, shift, weight, _bias, heads = draw((1, 3, 5, 16), 32, heads=2)
    options = {"statistics": F64}
    with pytest.raises(ArgumentError, match=r"weight has shape \(32, 15\)"):
        layer_norm_linear(x, LinearWeights(scale, shift, weight[:, 1:]), **options)
    with pytest.raises(ArgumentError, match=r"bias has shape \(33,\)"):
        layer_norm_linear(x, LinearWeights(scale, shift, weight, torch.zeros(33)), **options)
    with pytest.raises(ArgumentError, match="norm_bias"):
        pair_bias(x, PairBiasWeights(scale, shift[1:], heads), **options)
    weights = AttentionProjectionWeights(scale, shift, weight, heads)
    with pytest.raises(ArgumentError, match=r"z has shape .*expected \[batch row token c\]"):
        attention_projection(x[0], weights, **options)


def test_custom_operator_passes_opcheck():
    from refsys.ops.layer_norm_linear import triton

    tensors = draw((1, 3, 4, 8), 16, bias=16, heads=2)
    inputs = tuple(tensor.float().requires_grad_() for tensor in tensors)
    checks = "test_schema", "test_autograd_registration", "test_faketensor"
    torch.library.opcheck(triton.forward, inputs, test_utils=checks)
