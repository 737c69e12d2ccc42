"""Allocations and counted costs of fused operators, one by one and in the model."""

import pytest
import torch
from support.allocations import allocations

from refsys.ops import triton_backend
from refsys.ops.backend import OPERATORS
from refsys.ops.transition import TransitionWeights, transition
from refsys.ops.triangle_attention import triangle_attention
from refsys.ops.triangle_attention import triton as attention_kernels
from refsys.ops.triton_backend import ARCHITECTURES, assume_architecture, watch_launches
from refsys.ops.workspace import watch
from workloads.catalogue import catalogue
from workloads.predicted_costs import predicted_costs

FUSED = sorted(name for name, operator in OPERATORS.items() if "triton" in operator.kernels)


def trace(workload, backend, **axes):
    program = catalogue()[workload]
    return predicted_costs(
        program, program.configure({"precision": "bfloat16", "backend": backend, **axes})
    )


def attend(tokens, heads, width):
    """Run forward and backward; return the sizes of all allocations, in float32 elements."""
    shape = 1, tokens, tokens, heads, width
    inputs = [torch.randn(shape) for _ in range(3)] + [torch.randn(1, heads, tokens, tokens)]
    for tensor in inputs:
        tensor.requires_grad_()
    mask = torch.ones(1, tokens, tokens, dtype=torch.bool)
    towards = torch.randn(shape)
    scratch = []
    with allocations() as sizes, watch(lambda buffer: scratch.append(buffer.nbytes)):
        out = triangle_attention(*inputs, mask, softmax=torch.float32, backend="triton")
        out.backward(towards)
    return [nbytes / 4 for nbytes in (*sizes, *scratch)]


def limit(tokens, heads, width):
    return 1.1 * tokens**2 * max(heads * width, 4 * heads)


def test_triangle_attention_allocates_nothing_larger_than_its_input():
    sizes = attend(20, 1, 8)
    assert max(sizes) <= limit(20, 1, 8)
    assert max(sizes) >= 20 * 20 * 8, "the output is not among the allocations"


def test_allocation_limit_catches_hidden_scratch_as_large_as_all_logits(monkeypatch):
    """A mutant that allocates with torch instead of `workspace`."""
    launch = triton_backend.launch

    def wasteful(kernel, grid, *arguments, **options):
        torch.empty(20, 20, 20).zero_()
        launch(kernel, grid, *arguments, **options)

    monkeypatch.setattr(attention_kernels, "launch", wasteful)
    assert max(attend(20, 1, 8)) > limit(20, 1, 8)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scratch_stays_below_the_limit_on_every_architecture(architecture):
    """Simulated in bfloat16 at 384 tokens: fake tensors declare the same scratch."""
    tokens, heads, width = 384, 4, 32
    scratch = []
    with assume_architecture(architecture), watch(scratch.append):
        trace("operators", "triton", operator="triangle_attention", preset="full", tokens=tokens)
        trace("operators", "triton", operator="transition", preset="full", tokens=tokens)
    assert scratch
    for buffer in scratch:
        elements = buffer.nbytes / (2 if buffer.name.endswith(("bias", "normalized")) else 4)
        assert elements <= limit(tokens, heads, width), buffer


@pytest.mark.parametrize("operator", FUSED)
def test_fused_operator_has_the_flops_of_its_reference_and_no_higher_peak(operator):
    axes = {"operator": operator, "preset": "full", "tokens": 64}
    reference, fused = (trace("operators", backend, **axes) for backend in ("reference", "triton"))
    assert fused.total("flops") == reference.total("flops")
    pointwise = {"smooth_lddt", "adaptive_layer_norm"}
    assert (fused.total("flops") > 0) == (operator not in pointwise)
    assert fused.unpriced == ()
    assert fused.peak.nbytes <= reference.peak.nbytes


@pytest.mark.parametrize("checkpointing", [False, True])
def test_fused_model_has_the_flops_of_the_reference_and_a_lower_peak(checkpointing):
    axes = {"entry": "synthetic", "preset": "tiny", "tokens": 64, "checkpointing": checkpointing}
    reference, fused = (
        trace("alphafold3-trunk", backend, **axes) for backend in ("reference", "triton")
    )
    assert flops_but_recomputed(fused) == flops_but_recomputed(reference)
    assert fused.unpriced == ()
    assert fused.total("calls") < 0.8 * reference.total("calls")
    assert fused.peak.nbytes < 0.75 * reference.peak.nbytes


def flops_but_recomputed(trace):
    """FLOPs without recomputation: a checkpoint stops as soon as all saved tensors exist again."""
    return sum(cost.flops for origin, cost in trace.costs.items() if origin.phase != "recompute")


def test_launches_on_meta_tensors_equal_the_real_ones():
    x = torch.randn(3, 40, 16)
    parameters = torch.ones(16), torch.zeros(16), torch.randn(64, 16), torch.randn(16, 32)
    launches = []

    def note(launch):
        launches.append((launch.kernel, launch.grid, dict(launch.options)))

    def run(*tensors):
        inputs = [tensor.requires_grad_() for tensor in tensors]
        weights = TransitionWeights(*inputs[1:])
        out = transition(inputs[0], weights, statistics=torch.float32, backend="triton")
        out.sum().backward()

    options = {
        f"transition.{kernel}": {"BLOCK_ROWS": 16, "BLOCK_HIDDEN": 16}
        for kernel in ("forward", "backward_rows", "backward_weights")
    } | {"planes.fold": {"BLOCK_PLANES": 8, "BLOCK": 64}}
    with watch_launches(note), triton_backend.use_launch_options(options):
        run(x, *parameters)
        real, launches = launches, []
        run(*(tensor.detach().to("meta") for tensor in (x, *parameters)))
    assert real == launches
    assert [kernel for kernel, _, _ in real] == [
        "transition.forward",
        "copy",  # the gradient of a sum is one number with strides of zero
        "transition.backward_rows",
        "transition.backward_weights",
        "planes.fold",
    ]


def test_unknown_architecture_or_kernel_is_an_error():
    with (
        pytest.raises(triton_backend.ArgumentError, match="'sm_42' is not known"),
        assume_architecture("sm_42"),
    ):
        pass
    with pytest.raises(triton_backend.ArgumentError, match=r"'softmax\.forward' has no launch"):
        triton_backend.launch_options("softmax.forward", torch.empty(1, device="meta"))
