"""The outer product mean's kernels against its reference, in Triton's interpreter."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.accuracy import F64, assert_exact

from refsys.ops.backend import OPERATORS
from refsys.ops.outer_product_mean import outer_product_mean, triton
from refsys.ops.triton_backend import use_launch_options
from refsys.ops.workspace import watch

OPERATOR = OPERATORS["outer_product_mean"]
DTYPES = torch.float32, torch.float16
OPTIONS = {"accumulation": F64}
SMALL = {
    f"outer_product_mean.{kernel}": {"BLOCK_J": 16}
    for kernel in ("forward", "backward_products", "backward_weights")
}


def draw(batch, msa_depth, rows, columns, width, out, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes):
        return torch.randn(sizes, generator=generator, dtype=F64)

    masks = [torch.rand(batch, msa_depth, n, generator=generator) < 0.7 for n in (rows, columns)]
    a, b = (normal(*mask.shape, width) * mask.unsqueeze(-1) for mask in masks)
    return a, b, *masks, normal(out, width**2) / width, normal(out)


def results(tensors):
    inputs = [t.float().requires_grad_() if t.is_floating_point() else t for t in tensors]
    out = outer_product_mean(*inputs, accumulation=torch.float32, backend="triton")
    towards = torch.linspace(-1, 1, out.shape[-1]).expand_as(out)
    leaves = [t for t in inputs if t.requires_grad]
    return out.detach(), *torch.autograd.grad(out, leaves, towards)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    batch=st.integers(1, 2),
    msa_depth=st.integers(1, 5),
    rows=st.integers(1, 5),
    columns=st.integers(1, 33),
    width=st.sampled_from([1, 4, 8]),
    out=st.sampled_from([1, 16, 24]),
    dtype=st.sampled_from(DTYPES),
)
def test_outer_product_mean_is_exact_for_any_shape(
    batch, msa_depth, rows, columns, width, out, dtype
):
    with use_launch_options(SMALL):
        assert_exact(OPERATOR, draw(batch, msa_depth, rows, columns, width, out), OPTIONS, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_outer_product_mean_is_exact_for_the_widths_of_the_msa(dtype):
    assert_exact(OPERATOR, draw(1, 6, 2, 5, 32, 128), OPTIONS, dtype)


@pytest.mark.bits
def test_strides_are_free_and_rows_are_independent():
    a, b, mask_a, mask_b, *weights = draw(2, 3, 6, 4, 4, 16)
    whole = results((a, b, mask_a, mask_b, *weights))
    turned = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (a, b, mask_a, mask_b)]
    for one, other in zip(results((*turned, *weights)), whole, strict=True):
        assert torch.equal(one, other)
    slab = results((a[:, :, 2:5], b, mask_a[:, :, 2:5], mask_b, *weights))
    torch.testing.assert_close(slab[0], whole[0][:, 2:5])
    torch.testing.assert_close(slab[1], whole[1][:, :, 2:5])


def test_pairs_that_no_msa_row_covers_get_the_bias_alone():
    a, b, mask_a, mask_b, weight, bias = draw(1, 3, 4, 4, 4, 16)
    mask_a[:, :, 1] = False
    out = results((a * mask_a.unsqueeze(-1), b, mask_a, mask_b, weight, bias))[0]
    torch.testing.assert_close(out[0, 1], (bias.float() * 1000).expand(4, -1))


def test_scratch_of_products_is_no_larger_than_the_pair_tensor():
    """Tokens × channels for each pair at AlphaFold 3's shapes, eight times as many whole."""
    tokens, scratch = 384, []
    a = torch.empty(1, 64, tokens, 32, device="meta", dtype=torch.bfloat16).requires_grad_()
    mask = torch.empty(1, 64, tokens, device="meta", dtype=torch.bool)
    weight = torch.empty(128, 1024, device="meta").requires_grad_()
    bias = torch.empty(128, device="meta").requires_grad_()
    with watch(scratch.append):
        out = outer_product_mean(
            a, a, mask, mask, weight, bias, accumulation=torch.float32, backend="triton"
        )
        out.backward(torch.empty_like(out))
    assert max(buffer.nbytes for buffer in scratch) <= 2 * tokens**2 * 128


@pytest.mark.bits
def test_two_runs_give_the_same_bits():
    tensors = draw(1, 3, 6, 20, 4, 16)
    with use_launch_options(SMALL):
        for one, other in zip(results(tensors), results(tensors), strict=True):
            assert torch.equal(one, other)


def test_custom_operator_passes_opcheck():
    tensors = draw(1, 3, 4, 5, 4, 16)
    inputs = [t.float().requires_grad_() if t.is_floating_point() else t for t in tensors]
    checks = "test_schema", "test_autograd_registration", "test_faketensor"
    torch.library.opcheck(triton.forward, tuple(inputs), test_utils=checks)
