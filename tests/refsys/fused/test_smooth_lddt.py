"""Smooth-LDDT: the kernels against the reference, in Triton's interpreter."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.accuracy import F64, assert_exact
from support.allocations import allocations
from triton.runtime import interpreter

from refsys.errors import ArgumentError
from refsys.ops.backend import OPERATORS
from refsys.ops.smooth_lddt import near_pairs, smooth_lddt
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


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
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
    with pytest.raises(ArgumentError, match=r"atoms=\(3, 6\) is no interval of the 5 atoms"):
        smooth_lddt(x, label, resolved, radius, atoms=(3, 6))


def test_custom_operator_passes_opcheck():
    from refsys.ops.smooth_lddt import triton

    x, label, resolved, radius = draw(1, 2, 9)
    inputs = x.float().requires_grad_(), label.float(), resolved, radius.float()
    checks = "test_schema", "test_autograd_registration", "test_faketensor"
    torch.library.opcheck(triton.forward, (*inputs, 2, 8), test_utils=checks)


# Ends within tiles and at their edges.
INTERVALS = (0, 16, 21, 40)


def test_intervals_of_atoms_add_up_to_all_pairs_in_float64():
    """Scores weighted by the numbers of pairs, and gradients, of the kernels for each interval."""
    x, label, resolved, radius = draw(1, 1, INTERVALS[-1])
    tensors = x.float().requires_grad_(), label.float(), resolved, radius.float()
    expected_x = x.requires_grad_()
    expected = smooth_lddt(expected_x, label, resolved, radius, backend="reference")
    total, pairs = torch.zeros(1, 1), torch.zeros(1, 1)
    with use_launch_options(SMALL):
        for atoms in itertools.pairwise(INTERVALS):
            count = near_pairs(*tensors[1:], atoms)
            total = total + count * smooth_lddt(*tensors, atoms=atoms, backend="triton")
            pairs = pairs + count
        (gradient,) = torch.autograd.grad((total / pairs).sum(), tensors[0])
    (expected_gradient,) = torch.autograd.grad(expected.sum(), expected_x)
    torch.testing.assert_close((total / pairs).double(), expected, rtol=1e-5, atol=0)
    scale = expected_gradient.abs().max()
    torch.testing.assert_close(
        gradient.double() / scale, expected_gradient / scale, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("atoms", [(0, 64), (16, 32), (16, 48)])
def test_tiles_that_are_read_fall_with_the_atoms_that_pairs_start_from(atoms, monkeypatch):
    """Of T tiles, R start pairs: they read all tiles, in the backward pass the others read R."""
    call, labels = interpreter.InterpretedFunction.__call__, []

    def counted(helper, *arguments, **options):
        labels.extend([1] * (helper.fn.__name__ == "_load_label"))
        return call(helper, *arguments, **options)

    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", counted)
    x, label, resolved, radius = draw(1, 1, 64)
    x = x.float().requires_grad_()
    tiles, starts = 4, (atoms[1] - atoms[0]) // 16
    with use_launch_options(SMALL):
        scores = smooth_lddt(
            x, label.float(), resolved, radius.float(), atoms=atoms, backend="triton"
        )
        forward = len(labels)
        scores.sum().backward()
    assert forward == starts * (1 + tiles)
    assert len(labels) - forward == starts * (1 + tiles) + (tiles - starts) * (1 + starts)
