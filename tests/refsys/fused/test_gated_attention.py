"""Fused gated attention: the kernels against the references, in Triton's interpreter."""

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.accuracy import F64, assert_exact, results
from support.saved import saved

from refsys import ops
from refsys.errors import ArgumentError
from refsys.ops.backend import OPERATORS
from refsys.ops.gated_attention import (
    AttentionPairBiasWeights,
    TriangleAttentionWeights,
    attention_pair_bias,
    gated_triangle_attention,
)
from refsys.ops.gated_linear import gated_linear
from refsys.ops.layer_norm_linear import AttentionProjectionWeights, attention_projection
from refsys.ops.triangle_attention import triangle_attention

DTYPES = torch.float32, torch.float16
UPPER = {"softmax": F64, "statistics": F64}
F32 = {"softmax": torch.float32, "statistics": torch.float32}


class Draw:
    """Tensors in float64 at a scale that keeps the results at one."""

    def __init__(self, seed=0):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *sizes):
        return torch.randn(sizes, generator=self.generator, dtype=F64)

    def mask(self, *sizes):
        """At least two keys: with one, rounding alone would be compared."""
        mask = torch.rand(sizes, generator=self.generator) > 0.3
        mask[..., :2] = True
        return mask

    def norm(self, width):
        return 1 + self.normal(width) / 4, self.normal(width) / 4

    def weight(self, out, width):
        return self.normal(out, width) / width**0.5


def draw_triangle(batch, tokens, heads, width, *, keep=True):
    """Arguments of triangle attention; one row has no keys."""
    draw, c = Draw(), heads * width
    mask = draw.mask(batch, tokens, tokens)
    mask[-1, tokens // 2] = False
    weights = draw.weight(4 * c, c), draw.weight(heads, c), draw.weight(c, c)
    dropout = draw.mask(batch, tokens, c) if keep else None
    return draw.normal(batch, tokens, tokens, c), mask, *draw.norm(c), *weights, dropout


def draw_pair_bias(batch, tokens, heads, width, c_z):
    """Arguments of attention with pair bias; the last example has no keys."""
    draw, c = Draw(), heads * width
    mask = draw.mask(batch, tokens)
    mask[-1] = batch == 1
    single, pair = draw.normal(batch, tokens, c), draw.normal(batch, tokens, tokens, c_z)
    projection = *draw.norm(c), draw.weight(4 * c, c), draw.normal(c)
    return (
        single,
        pair,
        mask,
        *projection,
        *draw.norm(c_z),
        draw.weight(heads, c_z),
        draw.weight(c, c),
    )


def fused(z, mask, *arguments, **options):
    """Gated triangle attention of a flat list of tensors."""
    *weights, keep = arguments
    return gated_triangle_attention(z, mask, TriangleAttentionWeights(*weights), keep, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "tokens", "heads", "width"), [(2, 7, 2, 24), (1, 9, 4, 32)])
def test_triangle_attention_is_exact(batch, tokens, heads, width, dtype):
    tensors = draw_triangle(batch, tokens, heads, width)
    assert_exact(OPERATORS["gated_triangle_attention"], tensors, UPPER | {"rate": 0.25}, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "tokens", "heads", "c_z"), [(2, 17, 2, 40), (1, 9, 16, 128)])
def test_attention_with_pair_bias_is_exact(batch, tokens, heads, c_z, dtype):
    tensors = draw_pair_bias(batch, tokens, heads, 24, c_z)
    assert_exact(OPERATORS["attention_pair_bias"], tensors, UPPER, dtype)


@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    batch=st.integers(1, 2),
    tokens=st.integers(2, 5),
    heads=st.integers(1, 3),
    width=st.sampled_from([8, 24]),
    keep=st.booleans(),
)
# One key has all the weight, whatever its logit.
@example(batch=1, tokens=1, heads=1, width=8, keep=True)
def test_fused_attention_and_its_gradients_equal_the_three_stages(
    batch, tokens, heads, width, keep
):
    tensors = [
        t.float() if t is not None and t.is_floating_point() else t
        for t in draw_triangle(batch, tokens, heads, width, keep=keep)
    ]

    def in_stages(z, mask, norm_weight, norm_bias, weight, weight_heads, weight_out, dropout):
        weights = AttentionProjectionWeights(norm_weight, norm_bias, weight, weight_heads)
        qkvg, bias = attention_projection(z, weights, statistics=torch.float32)
        *qkv, gate = qkvg.chunk(4, dim=-1)
        q, k, v = (tensor.unflatten(-1, (heads, -1)) for tensor in qkv)
        out = triangle_attention(q, k, v, bias, mask, softmax=torch.float32)
        return gated_linear(out.flatten(-2), gate, weight_out, z, dropout, rate=0.25)

    def whole(*inputs):
        return fused(*inputs, **F32, rate=0.25)

    with ops.use_backend("triton"):
        actual, expected = (
            results(call, tensors, {}, torch.float32) for call in (whole, in_stages)
        )
    for name, value in expected.items():
        scale = value.abs().max().item()
        torch.testing.assert_close(actual[name], value, rtol=0, atol=2e-6 * scale, msg=name)


def attend(z, mask, *arguments):
    inputs = [tensor.detach().requires_grad_() for tensor in (z, *arguments[:-1])]
    out = fused(inputs[0], mask, *inputs[1:], arguments[-1], rate=0.25, **F32, backend="triton")
    towards = torch.linspace(-1, 1, out.numel()).view(out.shape)
    return out.detach(), *torch.autograd.grad(out, inputs, towards)


@pytest.mark.bits
def test_ending_node_has_the_same_bits_through_strides():
    z, mask, *arguments = (
        tensor if tensor.dtype == torch.bool else tensor.float()
        for tensor in draw_triangle(1, 7, 2, 8)
    )
    dense = attend(z, mask, *arguments)
    turned = attend(z.transpose(1, 2).contiguous().transpose(1, 2), mask, *arguments)
    assert turned[0].transpose(1, 2).is_contiguous()
    assert turned[1].transpose(1, 2).is_contiguous()
    for one, other in zip(dense, turned, strict=True):
        assert torch.equal(one, other)


def test_backward_saves_the_input_and_the_attention_output_alone():
    z, mask, *arguments = (
        tensor if tensor.dtype == torch.bool else tensor.float()
        for tensor in draw_triangle(1, 9, 2, 16)
    )
    leaves = [tensor.requires_grad_() for tensor in arguments[:-1]]
    with saved(leaves) as storages:
        fused(z.requires_grad_(), mask, *leaves, arguments[-1], rate=0.25, **F32, backend="triton")
    queries = 2 * 9 * 9 * 2  # in float32 two numbers for each query and head
    masks = mask.nbytes + arguments[-1].nbytes
    assert sum(storage.nbytes() for storage in storages) == 2 * z.nbytes + 4 * queries + masks


def test_error_names_the_wrong_argument():
    z, mask, *arguments, keep = draw_triangle(1, 5, 2, 8)
    options = UPPER | {"rate": 0.25}
    with pytest.raises(ArgumentError, match=r"z has shape .*expected as many rows as columns"):
        fused(z[:, 1:], mask[:, 1:], *arguments, keep, **options)
    with pytest.raises(ArgumentError, match="weight_heads has 3 heads; 16 channels do not divide"):
        fused(z, mask, *arguments[:3], torch.zeros(3, 16), arguments[-1], None, **options)
    s, pair, mask, *arguments = draw_pair_bias(1, 5, 2, 8, 4)
    with pytest.raises(ArgumentError, match="z has shape"):
        attention_pair_bias(s, pair[:, 1:], mask, AttentionPairBiasWeights(*arguments), **UPPER)


def test_custom_operator_passes_opcheck():
    from refsys.ops.gated_attention import triton

    s, z, mask, norm, shift, weight, bias, *pair_norm, heads, out = (
        tensor if tensor.dtype == torch.bool else tensor.float().requires_grad_()
        for tensor in draw_pair_bias(1, 4, 2, 8, 8)
    )
    row = s.detach().unsqueeze(1).requires_grad_()
    inputs = row, mask.unsqueeze(1), norm, shift, weight, bias, heads, out, z, *pair_norm, None, 0.0
    checks = "test_schema", "test_autograd_registration", "test_faketensor"
    torch.library.opcheck(triton.forward, inputs, test_utils=checks)
