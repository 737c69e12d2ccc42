"""Gated attention whole: the kernels against the references, in Triton's interpreter."""

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.accuracy import F64, assert_exact, results
from support.saved import saved

from refsys import ops
from refsys.errors import ArgumentError
from refsys.ops.backend import OPERATORS
from refsys.ops.gated_attention import attention_pair_bias, gated_triangle_attention
from refsys.ops.gated_linear import gated_linear
from refsys.ops.layer_norm_linear import attention_projection
from refsys.ops.triangle_attention import triangle_attention

DTYPES = torch.float32, torch.float16
UPPER = {"softmax": F64, "statistics": F64}
F32 = {"softmax": torch.float32, "statistics": torch.float32}


class Draw:
    """Tensors in float64 at a scale that keeps what comes out at one."""

    def __init__(self, seed=0):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *sizes):
        return torch.randn(sizes, generator=self.generator, dtype=F64)

    def mask(self, *sizes):
        """Two keys are always kept: with one, rounding alone would be compared."""
        kept = torch.rand(sizes, generator=self.generator) > 0.3
        kept[..., :2] = True
        return kept

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
    kept = draw.mask(batch, tokens, c) if keep else None
    return draw.normal(batch, tokens, tokens, c), mask, *draw.norm(c), *weights, kept


def draw_pair_bias(batch, tokens, heads, width, c_z):
    """Arguments of attention with pair bias; the last example has no keys."""
    draw, c = Draw(), heads * width
    mask = draw.mask(batch, tokens)
    mask[-1] = batch == 1
    single, pair = draw.normal(batch, tokens, c), draw.normal(batch, tokens, tokens, c_z)
    own = *draw.norm(c), draw.weight(4 * c, c), draw.normal(c)
    return single, pair, mask, *own, *draw.norm(c_z), draw.weight(heads, c_z), draw.weight(c, c)


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
def test_it_is_its_three_stages(batch, tokens, heads, width, keep):
    """Of any size, and with gradients to everything."""
    tensors = [
        t.float() if t is not None and t.is_floating_point() else t
        for t in draw_triangle(batch, tokens, heads, width, keep=keep)
    ]

    def in_stages(z, mask, norm_weight, norm_bias, weight, weight_heads, weight_out, kept):
        qkvg, bias = attention_projection(
            z, norm_weight, norm_bias, weight, weight_heads, statistics=torch.float32
        )
        *qkv, gate = qkvg.chunk(4, dim=-1)
        q, k, v = (each.unflatten(-1, (heads, -1)) for each in qkv)
        out = triangle_attention(q, k, v, bias, mask, softmax=torch.float32)
        return gated_linear(out.flatten(-2), gate, weight_out, z, kept, rate=0.25)

    def whole(*inputs):
        return gated_triangle_attention(*inputs, **F32, rate=0.25)

    with ops.use_backend("triton"):
        found, expected = (results(call, tensors, {}, torch.float32) for call in (whole, in_stages))
    for name, value in expected.items():
        scale = value.abs().max().item()
        torch.testing.assert_close(found[name], value, rtol=0, atol=2e-6 * scale, msg=name)


def attend(z, mask, *rest):
    inputs = [each.detach().requires_grad_() for each in (z, *rest[:-1])]
    out = gated_triangle_attention(
        inputs[0], mask, *inputs[1:], rest[-1], rate=0.25, **F32, backend="triton"
    )
    towards = torch.linspace(-1, 1, out.numel()).view(out.shape)
    return out.detach(), *torch.autograd.grad(out, inputs, towards)


@pytest.mark.bits
def test_the_ending_node_is_a_matter_of_strides():
    z, mask, *rest = (
        each if each.dtype == torch.bool else each.float() for each in draw_triangle(1, 7, 2, 8)
    )
    dense = attend(z, mask, *rest)
    turned = attend(z.transpose(1, 2).contiguous().transpose(1, 2), mask, *rest)
    assert turned[0].transpose(1, 2).is_contiguous()
    assert turned[1].transpose(1, 2).is_contiguous()
    for one, other in zip(dense, turned, strict=True):
        assert torch.equal(one, other)


def test_what_is_kept_for_backward_is_the_input_and_what_attention_gave():
    z, mask, *rest = (
        each if each.dtype == torch.bool else each.float() for each in draw_triangle(1, 9, 2, 16)
    )
    leaves = [each.requires_grad_() for each in rest[:-1]]
    with saved(leaves) as kept:
        gated_triangle_attention(
            z.requires_grad_(), mask, *leaves, rest[-1], rate=0.25, **F32, backend="triton"
        )
    queries = 2 * 9 * 9 * 2  # in float32 two numbers for each query and head
    masks = mask.nbytes + rest[-1].nbytes
    assert sum(each.nbytes() for each in kept) == 2 * z.nbytes + 4 * queries + masks


def test_wrong_arguments_are_named():
    z, mask, *rest, keep = draw_triangle(1, 5, 2, 8)
    options = UPPER | {"rate": 0.25}
    with pytest.raises(ArgumentError, match=r"z has shape .*expected as many rows as columns"):
        gated_triangle_attention(z[:, 1:], mask[:, 1:], *rest, keep, **options)
    with pytest.raises(ArgumentError, match="weight_heads has 3 heads; 16 channels do not divide"):
        gated_triangle_attention(z, mask, *rest[:3], torch.zeros(3, 16), rest[-1], None, **options)
    s, pair, mask, *rest = draw_pair_bias(1, 5, 2, 8, 4)
    with pytest.raises(ArgumentError, match="z has shape"):
        attention_pair_bias(s, pair[:, 1:], mask, *rest, **UPPER)


def test_torch_sees_a_sound_operator():
    from refsys.ops.gated_attention import triton

    s, z, mask, norm, shift, weight, bias, *pair_norm, heads, out = (
        each if each.dtype == torch.bool else each.float().requires_grad_()
        for each in draw_pair_bias(1, 4, 2, 8, 8)
    )
    row = s.detach().unsqueeze(1).requires_grad_()
    inputs = row, mask.unsqueeze(1), norm, shift, weight, bias, heads, out, z, *pair_norm, None, 0.0
    checks = "test_schema", "test_autograd_registration", "test_faketensor"
    torch.library.opcheck(triton.forward, inputs, test_utils=checks)
