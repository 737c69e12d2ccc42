"""Adaptive LayerNorm and the conditioned transition against their references, interpreted."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.accuracy import F64, assert_exact

from refsys.errors import ArgumentError
from refsys.ops.adaptive_layer_norm import adaptive_layer_norm
from refsys.ops.backend import OPERATORS
from refsys.ops.conditioned_transition import conditioned_transition, triton
from refsys.ops.triton_backend import use_launch_options, watch_launches

DTYPES = torch.float32, torch.float16
OPTIONS = {"statistics": F64}
SMALL = {
    f"adaptive_layer_norm.{kernel}": {"BLOCK_ROWS": 16} for kernel in ("forward", "backward")
} | {
    f"conditioned_transition.{kernel}": {"BLOCK_ROWS": 16, "BLOCK_HIDDEN": 16}
    for kernel in ("forward", "backward_rows")
}


def draw(shape, shared, hidden=0, seed=0):
    """Draw a, its conditions (three with a hidden layer, else two) and weights."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes):
        return torch.randn(sizes, generator=generator, dtype=F64)

    batch, samples, rows, width = shape
    condition = batch, 1 if shared else samples, rows, width
    if not hidden:
        return normal(*shape), normal(*condition), normal(*condition)
    weights = normal(2 * hidden, width) / width**0.5, normal(width, hidden) / hidden**0.5
    return normal(*shape), *(normal(*condition) for _ in range(3)), *weights


def results(tensors):
    inputs = [t.float().requires_grad_() for t in tensors]
    out = conditioned_transition(*inputs, statistics=torch.float32, backend="triton")
    towards = torch.linspace(-1, 1, out.shape[-1]).expand_as(out)
    return out.detach(), *torch.autograd.grad(out, inputs, towards)


SHAPES = st.tuples(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 33), st.sampled_from([1, 8, 24, 128])
)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(shape=SHAPES, shared=st.booleans(), dtype=st.sampled_from(DTYPES))
def test_adaptive_layer_norm_is_exact_for_any_shape(shape, shared, dtype):
    with use_launch_options(SMALL):
        assert_exact(OPERATORS["adaptive_layer_norm"], draw(shape, shared), OPTIONS, dtype)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    shape=SHAPES,
    shared=st.booleans(),
    hidden=st.sampled_from([1, 16, 40]),
    dtype=st.sampled_from(DTYPES),
)
def test_conditioned_transition_is_exact_for_any_shape(shape, shared, hidden, dtype):
    with use_launch_options(SMALL):
        assert_exact(
            OPERATORS["conditioned_transition"], draw(shape, shared, hidden), OPTIONS, dtype
        )


@pytest.mark.parametrize(("at_once", "dtype"), list(zip([7, 4096], DTYPES, strict=True)))
def test_conditioned_transition_is_exact_when_wide_rows_are_split(at_once, dtype, monkeypatch):
    monkeypatch.setattr(triton, "ROWS_AT_ONCE", at_once)
    monkeypatch.setattr(triton, "WIDE", 16)
    operator = OPERATORS["conditioned_transition"]
    for shared in (False, True):
        assert_exact(operator, draw((2, 2, 5, 24), shared, 40), OPTIONS, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_conditioned_transition_is_exact_for_the_width_of_tokens(dtype):
    assert_exact(
        OPERATORS["conditioned_transition"], draw((1, 1, 3, 768), False, 512), OPTIONS, dtype
    )


@pytest.mark.bits
def test_samples_and_rows_are_independent_and_strides_are_free():
    a, *conditions, weight_in, weight_out = draw((2, 3, 20, 8), True, 16)
    whole = results((a, *conditions, weight_in, weight_out))
    turned = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (a, *conditions)]
    for one, other in zip(results((*turned, weight_in, weight_out)), whole, strict=True):
        assert torch.equal(one, other)
    slab = [t[:, :, 3:17] for t in (a, *conditions)]
    slab_results = results((*slab, weight_in, weight_out))
    for one, other in zip(slab_results[:5], whole[:5], strict=True):
        assert torch.equal(one, other[:, :, 3:17])
    order = torch.tensor([2, 0, 1])
    assert torch.equal(
        results((a[:, order], *conditions, weight_in, weight_out))[0], whole[0][:, order]
    )


@pytest.mark.bits
def test_two_runs_give_the_same_bits(monkeypatch):
    for wide in (128, 4):
        monkeypatch.setattr(triton, "WIDE", wide)
        tensors = draw((1, 3, 40, 8), True, 16)
        for one, other in zip(results(tensors), results(tensors), strict=True):
            assert torch.equal(one, other)


def test_scratch_of_wide_rows_is_no_larger_than_the_input():
    """Scratch rows are three times as wide as the hidden layer."""
    launches = []
    a = torch.empty(1, 48, 384, 768, device="meta", dtype=torch.bfloat16)
    weights = torch.empty(3072, 768, device="meta"), torch.empty(768, 1536, device="meta")
    inputs = [t.requires_grad_() for t in (a, *(torch.empty_like(a) for _ in range(3)), *weights)]
    with watch_launches(launches.append):
        out = conditioned_transition(*inputs, statistics=torch.float32, backend="triton")
        out.backward(torch.empty_like(out))
    tensors = [t for launch in launches for t in launch.arguments if isinstance(t, torch.Tensor)]
    assert max(t.numel() for t in tensors) == a.numel()
    assert sum(launch.kernel == "conditioned_transition.swiglu" for launch in launches) == 5


def test_custom_operators_pass_opcheck():
    from refsys.ops.adaptive_layer_norm import triton as norm

    checks = "test_schema", "test_autograd_registration", "test_faketensor"
    inputs = [t.float().requires_grad_() for t in draw((1, 2, 3, 8), True, 16)]
    torch.library.opcheck(norm.forward, tuple(inputs[:3]), test_utils=checks)
    torch.library.opcheck(triton.forward, tuple(inputs), test_utils=checks)


def test_error_names_the_wrong_condition_or_weight():
    a, scale, shift, gate, weight_in, weight_out = draw((1, 4, 3, 8), True, 16)
    options = {"statistics": F64}
    with pytest.raises(ArgumentError, match=r"scale has shape \(1, 2, 3, 8\); expected \[1, 1 or"):
        adaptive_layer_norm(a, scale.expand(1, 2, 3, 8), shift, **options)
    with pytest.raises(ArgumentError, match="shift has shape"):
        adaptive_layer_norm(a, scale, shift[..., :4], **options)
    with pytest.raises(ArgumentError, match=r"scale has shape \(8,\)"):
        adaptive_layer_norm(a, scale[0, 0, 0], shift, **options)
    with pytest.raises(ArgumentError, match=r"gate is torch\.float32"):
        conditioned_transition(a, scale, shift, gate.float(), weight_in, weight_out, **options)
    with pytest.raises(ArgumentError, match=r"weight_in has shape \(31, 8\)"):
        conditioned_transition(a, scale, shift, gate, weight_in[1:], weight_out, **options)
    with pytest.raises(ArgumentError, match="weight_out has shape"):
        conditioned_transition(a, scale, shift, gate, weight_in, weight_out.T, **options)
