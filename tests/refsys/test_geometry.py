"""Rigid motions: comparison with SciPy, equivariance, degenerate input."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from refsys.geometry import (
    aligned,
    are_collinear,
    best_rotation,
    bisector_frames,
    frames,
    quaternion_to_rotation,
    weighted_mean,
)

G = torch.Generator().manual_seed(4)
F64 = torch.float64


def normal(*shape):
    return torch.randn(shape, generator=G, dtype=F64)


def test_quaternion_to_rotation_equals_scipy():
    q = normal(20, 4)
    expected = Rotation.from_quat(q[:, [1, 2, 3, 0]].numpy()).as_matrix()
    np.testing.assert_allclose(quaternion_to_rotation(q).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("noise", [0.0, 0.3, 100.0])
def test_aligned_uses_the_best_rotation_of_scipy(noise):
    for _ in range(20):
        x, weight = normal(30, 3), torch.rand(30, generator=G, dtype=F64)
        turn = quaternion_to_rotation(normal(4))
        onto = x @ turn.T + noise * normal(30, 3) + 7.0
        found = aligned(x, onto, weight, F64)
        best, _ = Rotation.align_vectors(
            (onto - weighted_mean(onto, weight)).numpy(),
            (x - weighted_mean(x, weight)).numpy(),
            weight.numpy(),
        )
        rotated = (x - weighted_mean(x, weight)).numpy() @ best.as_matrix().T
        expected = rotated + weighted_mean(onto, weight).numpy()
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-8)


def test_best_rotation_is_proper_for_a_mirror_image():
    x = normal(30, 3)
    rotation = best_rotation(x.T @ (x * torch.tensor([1.0, 1.0, -1.0])))
    assert float(torch.linalg.det(rotation)) == pytest.approx(1)


@pytest.mark.parametrize("points", [torch.zeros(5, 3), torch.ones(5, 3), torch.eye(3)[:1]])
def test_aligned_is_finite_for_degenerate_points(points):
    found = aligned(points, 2 * points, torch.ones(len(points)), torch.float32)
    assert found.isfinite().all()
    torch.testing.assert_close(found.mean(0), 2 * points.mean(0))


def test_aligned_is_finite_and_detached_with_zero_weights():
    x = normal(4, 3).requires_grad_()
    found = aligned(x, normal(4, 3), torch.zeros(4, dtype=F64), F64)
    assert found.isfinite().all()
    assert not found.requires_grad


def test_frames_are_equivariant_to_rigid_motion():
    atoms, turn, shift = normal(10, 3, 3), quaternion_to_rotation(normal(4)), normal(3)
    origin, rotation = frames(atoms)
    moved_origin, moved_rotation = frames(atoms @ turn.T + shift)
    torch.testing.assert_close(moved_origin, origin @ turn.T + shift)
    torch.testing.assert_close(moved_rotation, turn @ rotation)
    identity = torch.eye(3, dtype=F64).expand(10, 3, 3)
    torch.testing.assert_close(rotation.transpose(-1, -2) @ rotation, identity, atol=1e-6, rtol=0)
    assert (torch.linalg.det(rotation) > 0.999).all()


def test_bisector_frames_have_the_axes_of_algorithm_29():
    """The first axis bisects the angle of the bonds, which lie in the plane of the first two."""
    atoms, turn, shift = normal(10, 3, 3), quaternion_to_rotation(normal(4)), normal(3)
    origin, rotation = bisector_frames(atoms)
    assert torch.equal(origin, atoms[:, 1])
    identity = torch.eye(3, dtype=F64).expand(10, 3, 3)
    torch.testing.assert_close(rotation.transpose(-1, -2) @ rotation, identity)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(10, dtype=F64))
    bonds = atoms[:, ::2] - origin.unsqueeze(1)
    bonds = bonds / bonds.norm(dim=-1, keepdim=True)
    first, third = torch.einsum("nxy,nbx->bny", rotation, bonds)
    torch.testing.assert_close(first * torch.tensor([1.0, -1.0, 0.0]), third, atol=1e-14, rtol=1e-9)
    assert (first[:, 0] > 0).all()
    assert (first[:, 1] < 0).all()
    moved_origin, moved_rotation = bisector_frames(atoms @ turn.T + shift)
    torch.testing.assert_close(moved_origin, origin @ turn.T + shift)
    torch.testing.assert_close(moved_rotation, turn @ rotation)


def test_bisector_frames_of_coincident_or_aligned_atoms_are_finite():
    line = torch.tensor([[-1.0, 0, 0], [0, 0, 0], [1, 0, 0]], dtype=F64)
    _, rotation = bisector_frames(torch.stack([torch.zeros(3, 3, dtype=F64), line]))
    assert rotation.isfinite().all()


def test_are_collinear_is_true_for_atoms_in_line():
    line = torch.tensor([[[-1.0, 0, 0], [0, 0, 0], [1, 0.1, 0]]])
    corner = torch.tensor([[[0.0, 1, 0], [0, 0, 0], [1, 0, 0]]])
    assert are_collinear(torch.cat([line, corner])).tolist() == [True, False]
