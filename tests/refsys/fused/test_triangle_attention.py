"""Triangle attention's kernels against its reference, in Triton's interpreter."""

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.accuracy import F64, assert_exact

from refsys import ops
from refsys.ops.backend import OPERATORS
from refsys.ops.triangle_attention import triangle_attention
from refsys.ops.triton_backend import use_launch_options

OPERATOR = OPERATORS["triangle_attention"]
DTYPES = torch.float32, torch.float16
SMALL = {
    f"triangle_attention.{kernel}": {"BLOCK_Q": 16, "BLOCK_K": 16}
    for kernel in ("forward", "backward_tokens", "backward_bias")
}


def draw(batch, rows, queries, keys, heads, width, seed=0):
    """Draw q, k, v, a bias in the layout of a projection, and a mask with a row without keys."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=F64)

    mask = torch.rand(batch, rows, keys, generator=generator) > 0.3
    mask[-1, rows // 2] = False
    return (
        normal(batch, rows, queries, heads, width),
        normal(batch, rows, keys, heads, width),
        normal(batch, rows, keys, heads, width),
        normal(batch, queries, keys, heads).permute(0, 3, 1, 2),
        mask,
    )


def attend(tensors, backend="triton"):
    """Return output and gradients in float32; the gradient of the output is fixed."""
    inputs = [t.float().requires_grad_() for t in tensors[:4]]
    out = triangle_attention(*inputs, tensors[4], softmax=torch.float32, backend=backend)
    towards = torch.linspace(-1, 1, out.shape[-1]).expand_as(out)
    return out.detach(), *torch.autograd.grad(out, inputs, towards)


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    tokens=st.integers(1, 17),
    batch=st.just(1),
    heads=st.integers(1, 2),
    width=st.sampled_from([8, 16, 24, 32, 48, 64]),
    dtype=st.sampled_from(DTYPES),
)
# Here the rounding of a log-sum-exp shows in float32.
@example(tokens=13, batch=1, heads=1, width=48, dtype=torch.float32)
def test_attention_is_exact_for_full_pair_tensors(tokens, batch, heads, width, dtype):
    tensors = draw(batch, tokens, tokens, tokens, heads, width)
    assert_exact(OPERATOR, tensors, {"softmax": F64}, dtype)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    sizes=st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 40)),
    width=st.sampled_from([1, 8, 24, 33, 64]),
    dtype=st.sampled_from(DTYPES),
)
def test_attention_is_exact_for_slabs_and_blocks_of_queries(sizes, width, dtype):
    rows, queries, keys = sizes
    with use_launch_options(SMALL):
        tensors = draw(2, rows, queries, keys, 1, width)
        assert_exact(OPERATOR, tensors, {"softmax": F64}, dtype)


@pytest.mark.parametrize(
    ("tokens", "dtype"),
    list(zip([63, 64, 65, 130], [*DTYPES, *DTYPES], strict=True)),
)
def test_attention_is_exact_for_sizes_near_a_tile(tokens, dtype):
    assert_exact(OPERATOR, draw(1, 2, tokens, tokens, 2, 32), {"softmax": F64}, dtype)


def test_bias_gradient_is_exact_when_rows_are_split_into_partial_sums():
    """More than eight rows and a few tiles."""
    tensors = draw(2, 9, 18, 18, 1, 8)
    with use_launch_options(SMALL):
        assert_exact(OPERATOR, tensors, {"softmax": F64}, torch.float32)


@pytest.mark.bits
@pytest.mark.parametrize("axes", [(0, 2, 1, 3, 4), (0, 1, 2, 4, 3)])
def test_strides_are_free(axes):
    """The ending node reads columns; a head width may lie apart."""
    tensors = draw(2, 4, 4, 4, 2, 8)
    dense = attend(tensors)
    turned = [t.permute(axes).contiguous().permute(axes) for t in tensors[:3]]
    assert not turned[0].is_contiguous()
    for one, other in zip(attend((*turned, *tensors[3:])), dense, strict=True):
        assert torch.equal(one, other)


def test_row_without_keys_is_zero_and_has_no_gradient():
    tensors = draw(1, 3, 5, 5, 2, 8)
    out, dq, dk, dv, dbias = attend(tensors)
    for tensor in (out, dq, dk, dv):
        assert (tensor[:, 1] == 0).all()
        assert (tensor[:, 0] != 0).any()
    tensors[4][:] = False
    assert not any(tensor.any() for tensor in attend(tensors))
    assert dbias.isfinite().all()


def test_heads_and_positions_permute():
    tensors = draw(1, 5, 5, 5, 3, 8)
    q, k, v, bias, mask = tensors
    heads, order = torch.tensor([2, 0, 1]), torch.tensor([3, 0, 4, 2, 1])
    turned = (
        *(t[:, order][:, :, order][:, :, :, heads] for t in (q, k, v)),
        bias[:, heads][:, :, order][:, :, :, order],
        mask[:, order][:, :, order],
    )
    whole, fused = attend(tensors), attend(turned)
    for one, other in zip(fused[:4], whole[:4], strict=True):
        expected = other[:, order][:, :, order][:, :, :, heads]
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-6)
    expected = whole[4][:, heads][:, :, order][:, :, :, order]
    torch.testing.assert_close(fused[4], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.bits
def test_padding_changes_no_bit():
    q, k, v, bias, mask = draw(1, 4, 7, 7, 2, 8)
    pad = (0, 0, 0, 0, 0, 5)
    padded = (
        *(torch.nn.functional.pad(t, pad, value=3.0) for t in (q, k, v)),
        torch.nn.functional.pad(bias, (0, 5, 0, 5), value=-2.0),
        torch.nn.functional.pad(mask, (0, 5)),
    )
    fused, whole = attend(padded), attend((q, k, v, bias, mask))
    assert torch.equal(fused[0][:, :, :7], whole[0])
    inputs = [t.float().requires_grad_() for t in padded[:4]]
    out = triangle_attention(*inputs, padded[4], softmax=torch.float32, backend="triton")
    towards = torch.linspace(-1, 1, 8).expand_as(out[:, :, :7])
    gradients = torch.autograd.grad(out[:, :, :7], inputs, towards)
    for one, other in zip(gradients[:3], whole[1:4], strict=True):
        assert torch.equal(one[:, :, :7], other)
        assert not one[:, :, 7:].any()
    assert torch.equal(gradients[3][..., :7, :7], whole[4])


@pytest.mark.bits
def test_slabs_equal_the_whole():
    q, k, v, bias, mask = draw(1, 6, 6, 6, 2, 8)
    whole = attend((q, k, v, bias, mask))
    slabs = [
        attend((*(t[:, rows] for t in (q, k, v)), bias, mask[:, rows]))
        for rows in (slice(0, 2), slice(2, 6))
    ]
    for index in range(4):
        assert torch.equal(torch.cat([slab[index] for slab in slabs], 1), whole[index])
    torch.testing.assert_close(slabs[0][4] + slabs[1][4], whole[4], rtol=1e-5, atol=1e-6)
    block = attend((q[:, :, 2:5], k, v, bias[:, :, 2:5], mask))
    assert torch.equal(block[0], whole[0][:, :, 2:5])


@pytest.mark.bits
def test_two_runs_give_the_same_bits():
    tensors = draw(1, 9, 18, 18, 1, 8)
    with use_launch_options(SMALL):
        for one, other in zip(attend(tensors), attend(tensors), strict=True):
            assert torch.equal(one, other)


def test_custom_operators_pass_opcheck():
    from refsys.ops.triangle_attention import triton

    inputs = [t.float().requires_grad_() for t in draw(1, 2, 5, 5, 1, 8)[:4]]
    checks = "test_schema", "test_autograd_registration", "test_faketensor"
    mask = torch.ones(1, 2, 5, dtype=torch.bool)
    torch.library.opcheck(triton.attend, (*inputs, mask), test_utils=checks)


@pytest.mark.bits
@pytest.mark.parametrize(
    ("width", "dtype", "softmax", "reason"),
    [
        (8, torch.float64, torch.float64, "softmax is taken in float32"),
        (8, torch.float64, torch.float32, "float64 has no kernel"),
        (72, torch.float32, torch.float32, "heads are wider than 64"),
        (8, torch.bfloat16, torch.float32, "interpreter's products of bfloat16"),
    ],
)
def test_unsupported_arguments_fall_back_with_a_reason(width, dtype, softmax, reason):
    tensors = [t.to(dtype) for t in draw(1, 2, 3, 3, 1, width)[:4]]
    mask = torch.ones(1, 2, 3, dtype=torch.bool)
    before = ops.fallbacks()
    fused = triangle_attention(*tensors, mask, softmax=softmax, backend="triton")
    plain = triangle_attention(*tensors, mask, softmax=softmax, backend="reference")
    assert torch.equal(fused, plain)
    (fallback,) = ops.fallbacks() - before
    assert reason in fallback.reason
