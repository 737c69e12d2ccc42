"""Smooth-LDDT: the kernels against the reference, in Triton's interpreter."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.accuracy import F64, assert_exact
from support.allocations import allocations

from refsys.errors import ArgumentError
from refsys.ops.backend import OPERATORS
from refsys.ops.smooth_lddt import smooth_lddt
from refsys.ops.triton_backend import use_launch_options

SMALL = {
    f"smooth_lddt.{kernel}": {"BLOCK_Q": 16, "BLOCK_K": 16} for kernel in ("forward", "backward")
}


def draw(batch, samples, atoms, seed=0):
    """Draw positions near a label with some atoms missing and radii of two sizes."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=F64)

    label = 8 * normal(batch, atoms, 3)
    resolved = torch.rand(batch, atoms, generator=generator) > 0.2
    radius = torch.where(normal(batch, atoms) > 0, 15.0, 9.0).double()
    return label.unsqueeze(1) + normal(batch, samples, atoms, 3), label, resolved, radius


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    batch=st.integers(1, 2),
    samples=st.integers(1, 3),
    atoms=st.integers(1, 40),
)
def test_smooth_lddt_is_exact_for_any_number_of_atoms(batch, samples, atoms):
    with use_launch_options(SMALL):
        tensors = draw(batch, samples, atoms)
        assert_exact(OPERATORS["smooth_lddt"], tensors, {"block": 7}, torch.float32)


def score(x, label, resolved, radius, backend="triton"):
    x = x.float().requires_grad_()
    targets = label.float(), resolved, radius.float()
    scores = smooth_lddt(x, *targets, block=64, backend=backend)
    towards = torch.linspace(-1, 1, scores.numel()).view(scores.shape)
    return scores.detach(), *torch.autograd.grad(scores, x, towards)


@pytest.mark.bits
def test_two_runs_give_the_same_bits_and_distant_tiles_do_not_count():
    x, label, resolved, radius = draw(1, 2, 50)
    offset = torch.tensor([500.0, 0.0, 0.0], dtype=F64)
    apart = torch.cat([x, x + offset], dim=2), torch.cat([label, label + offset], dim=1)
    both = *apart, resolved.repeat(1, 2), radius.repeat(1, 2)
    with use_launch_options(SMALL):
        first, second = score(*both), score(*both)
        scores, gradient = score(x, label, resolved, radius)
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    torch.testing.assert_close(first[0], scores)
    torch.testing.assert_close(2 * first[1][:, :, :50], gradient)


def test_kernels_store_no_pair_of_atoms():
    tensors = draw(1, 2, 200)
    with allocations() as sizes:
        score(*tensors)
    assert 0 < max(sizes) < 200 * 200


def test_score_and_gradient_are_zero_when_no_pair_is_near():
    x, label, resolved, radius = draw(1, 2, 20)
    scores, gradient = score(x, label, torch.zeros_like(resolved), radius)
    assert not scores.any()
    assert not gradient.any()


def test_error_names_the_wrong_argument():
    x, label, resolved, radius = draw(1, 2, 5)
    with pytest.raises(ArgumentError, match="radius has shape"):
        smooth_lddt(x, label, resolved, radius[:, 1:])
    with pytest.raises(ArgumentError, match="block=0 is less than 1"):
        smooth_lddt(x, label, resolved, radius, block=0)


def test_custom_operator_passes_opcheck():
    from refsys.ops.smooth_lddt import triton

    x, label, resolved, radius = draw(1, 2, 9)
    inputs = x.float().requires_grad_(), label.float(), resolved, radius.float()
    checks = "test_schema", "test_autograd_registration", "test_faketensor"
    torch.library.opcheck(triton.forward, inputs, test_utils=checks)
