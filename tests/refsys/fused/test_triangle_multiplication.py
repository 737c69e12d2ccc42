"""Triangle multiplication's stages against their references, in Triton's interpreter."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.accuracy import F64, assert_exact

from refsys import ops
from refsys.ops.backend import OPERATORS
from refsys.ops.triangle_multiplication import StageWeights, contraction, epilogue, projection
from refsys.ops.triton_backend import use_launch_options

DTYPES = torch.float32, torch.float16
SMALL = {
    f"triangle_multiplication.{kernel}": {"BLOCK_ROWS": 16, "BLOCK_OUT": 16}
    for kernel in (
        *("projection", "projection_backward_rows", "projection_backward_weights"),
        *("epilogue", "epilogue_backward"),
    )
} | {"planes.outer": {"BLOCK_ROWS": 16, "BLOCK_OUT": 16, "BLOCK_WIDTH": 128}}


def draw(stage, shape, seed=0):
    """Draw arguments of a stage in float64, at a scale that keeps the results at one."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes):
        return torch.randn(sizes, generator=generator, dtype=F64)

    width = shape[-1]
    norm = 1 + normal(width) / 4, normal(width) / 4
    if stage == "projection":
        mask = torch.rand(shape[:-1], generator=generator) > 0.2
        return normal(*shape), mask, *norm, normal(5 * width, width) / width**0.5
    keep = torch.rand(shape[0], *shape[2:], generator=generator) > 0.25
    weight = normal(width, width) / width**0.5
    return normal(*shape), normal(*shape), *norm, weight, normal(*shape), keep


def check_exact(stage, shape, dtype):
    operator = OPERATORS[f"triangle_multiplication_{stage}"]
    options = {"statistics": F64} | ({"rate": 0.25} if stage == "epilogue" else {})
    tensors = draw(stage, shape)
    assert_exact(operator, tensors, options, dtype)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    stage=st.sampled_from(["projection", "epilogue"]),
    shape=st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 33)),
    width=st.sampled_from([8, 24, 32, 64]),
    dtype=st.sampled_from(DTYPES),
)
def test_stage_is_exact_for_any_slab(stage, shape, width, dtype):
    with use_launch_options(SMALL):
        check_exact(stage, (*shape, width), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stage", ["projection", "epilogue"])
def test_stage_is_exact_for_the_width_of_the_pair_track(stage, dtype):
    check_exact(stage, (1, 5, 9, 128), dtype)


@pytest.mark.parametrize("outgoing", [True, False])
def test_three_stages_in_sequence_are_as_exact_as_plain_pytorch(outgoing):
    z, mask, *parameters = draw("projection", (2, 7, 7, 16))
    *_, scale, offset, weight, _residual, _keep = draw("epilogue", (2, 7, 7, 16), seed=1)
    results = {}
    for backend, dtype in (("reference", F64), ("reference", torch.float32), ("triton", None)):
        kind = dtype or torch.float32
        inputs = [t.to(kind).requires_grad_() for t in (z, *parameters, scale, offset, weight)]
        one, *first, scale_, offset_, weight_ = inputs
        upper = F64 if kind == F64 else torch.float32
        with ops.use_backend(backend):
            a, b, gate = projection(one, mask, StageWeights(*first), statistics=upper)
            x = contraction(a, b, outgoing=outgoing)
            out = epilogue(x, gate, StageWeights(scale_, offset_, weight_), statistics=upper)
        towards = torch.linspace(-1, 1, 16, dtype=kind).expand_as(out)
        results[backend, kind if dtype else None] = out, *torch.autograd.grad(out, inputs, towards)
    exact, plain, fused = results.values()
    for true, one, other in zip(exact, plain, fused, strict=True):
        error, allowed = ((t.double() - true).abs().max().item() for t in (other, one))
        assert error <= 2 * allowed + 4 * torch.finfo(torch.float32).eps * true.abs().max().item()


def test_operands_have_the_layout_of_the_batched_product():
    z, mask, *parameters = (
        t.float() if t.dtype == F64 else t for t in draw("projection", (1, 5, 6, 8))
    )
    options = {"statistics": torch.float32, "backend": "triton"}
    a, b, gate = projection(z, mask, StageWeights(*parameters), **options)
    assert a.shape == b.shape == gate.shape == z.shape
    assert a.permute(0, 3, 1, 2).is_contiguous()
    assert gate.is_contiguous()
    assert not a[~mask].any()


@pytest.mark.bits
@pytest.mark.parametrize("stage", ["projection", "epilogue"])
def test_two_runs_give_the_same_bits(stage):
    operator = OPERATORS[f"triangle_multiplication_{stage}"]

    def run():
        tensors = [t.float() if t.dtype == F64 else t for t in draw(stage, (1, 9, 20, 16))]
        inputs = [t.requires_grad_(t.is_floating_point()) for t in tensors]
        rate = {"rate": 0.25} if stage == "epilogue" else {}
        call = operator.with_flat_arguments(operator)
        outputs = call(*inputs, statistics=torch.float32, backend="triton", **rate)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        leaves = [t for t in inputs if t.requires_grad]
        return torch.autograd.grad([o.sum() for o in outputs], leaves)

    with use_launch_options(SMALL):
        for one, other in zip(run(), run(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["project", "finish"])
def test_custom_operators_pass_opcheck(name):
    from refsys.ops.triangle_multiplication import triton

    stage, shape = ("projection", (1, 3, 4, 8)) if name == "project" else ("epilogue", (1, 8, 3, 4))
    tensors = [t.float() if t.dtype == F64 else t for t in draw(stage, (1, 3, 4, 8))]
    rate = []
    if name == "finish":
        tensors[0] = tensors[0].reshape(shape)
        rate = [0.25]
    inputs = [t.requires_grad_(t.is_floating_point()) for t in tensors]
    checks = "test_schema", "test_autograd_registration", "test_faketensor"
    torch.library.opcheck(getattr(triton, name), (*inputs, *rate), test_utils=checks)
