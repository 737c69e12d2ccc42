"""Rigid motions: alignment, frames, rotations. No function synchronizes with the device.

Shape suffixes: A atoms, N tokens.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Squarings of a 4 × 4 matrix: enough to separate eigenvalues that differ by one part in 10¹².
_SQUARINGS = 40


def quaternion_to_rotation(q: Tensor) -> Tensor:
    """Convert [..., 4] quaternions (w, x, y, z) of any non-zero length to [..., 3, 3] rotations."""
    w, x, y, z = (q / q.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def best_rotation(covariance: Tensor) -> Tensor:
    """Return the rotation R that maximizes trace(R · covariance), never a reflection.

    Horn's method: the quaternion is the top eigenvector of a symmetric 4 × 4 matrix, found by
    repeated squaring of the matrix. The decompositions of `torch.linalg` would synchronize the host
    with the device.

    Args:
        covariance: [..., 3, 3], Σ y xᵀ over points y that are rotated onto points x; rows are y.

    Returns:
        [..., 3, 3]; any one of the best rotations if there are several.
    """
    s = covariance
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in s.unbind(-2))
    rows = (
        (xx + yy + zz, yz - zy, zx - xz, xy - yx),
        (yz - zy, xx - yy - zz, xy + yx, zx + xz),
        (zx - xz, xy + yx, yy - xx - zz, yz + zy),
        (xy - yx, zx + xz, yz + zy, zz - xx - yy),
    )
    matrix = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    one = torch.eye(4, dtype=s.dtype, device=s.device)
    # No eigenvalue exceeds the Frobenius norm in magnitude: adding it makes all non-negative.
    size = matrix.square().sum((-1, -2), keepdim=True).sqrt()
    power = matrix / size.clamp(min=torch.finfo(s.dtype).tiny) + one
    for _ in range(_SQUARINGS):
        power = power @ power
        power = power / power.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    # The power converges to v vᵀ; the column with the largest diagonal entry is v up to scale.
    largest = power.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
    column = power.gather(-1, largest.expand(*power.shape[:-1], 1)).squeeze(-1)
    return quaternion_to_rotation(column)


def weighted_mean(x_A3: Tensor, weight_A: Tensor) -> Tensor:
    """Return the weighted mean [..., 1, 3] of points [..., A, 3]; zero if all weights are zero."""
    total = weight_A.sum(-1, keepdim=True).clamp(min=torch.finfo(weight_A.dtype).tiny)
    return ((weight_A / total).unsqueeze(-1) * x_A3).sum(-2, keepdim=True)


@torch.no_grad()
def aligned(x_A3: Tensor, onto_A3: Tensor, weight_A: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `x` rigidly aligned to `onto` (Algorithm 28), without gradient.

    Args:
        x_A3: [..., A, 3] points to align.
        onto_A3: [..., A, 3] target points, in the same order.
        weight_A: [..., A] non-negative weights.
        dtype: Dtype of the computation.

    Returns:
        [..., A, 3] in the dtype of `x`.
    """
    x, onto, weight = (t.to(dtype) for t in (x_A3, onto_A3, weight_A))
    center, target = weighted_mean(x, weight), weighted_mean(onto, weight)
    covariance = torch.einsum("...a,...ax,...ay->...xy", weight, x - center, onto - target)
    rotation = best_rotation(covariance.to(torch.float64)).to(dtype)
    return ((x - center) @ rotation.transpose(-1, -2) + target).to(x_A3.dtype)


def frames(atoms_N33: Tensor) -> tuple[Tensor, Tensor]:
    """Return origins and Gram-Schmidt axes of triples of atoms (AlphaFold 2, Algorithm 21).

    Templates use these frames, as in the released code.

    Args:
        atoms_N33: [..., 3 atoms, 3]; the middle one is the origin, the third gives the x axis.

    Returns:
        Origins [..., 3], and rotations [..., 3, 3] whose columns are the axes.
    """
    a, origin, c = atoms_N33.unbind(-2)
    x = _unit(c - origin)
    bond = a - origin
    y = _unit(bond - (x * bond).sum(-1, keepdim=True) * x)
    return origin, torch.stack([x, y, torch.linalg.cross(x, y)], dim=-1)


def bisector_frames(atoms_N33: Tensor) -> tuple[Tensor, Tensor]:
    """Return origins and axes of triples of atoms, from the sum and difference of unit bonds.

    The aligned error uses these frames (AlphaFold 3, Algorithm 29).

    Args:
        atoms_N33: [..., 3 atoms, 3]; the middle one is the origin, the first axis bisects the
            angle, and the second points from the first atom's side to the third's.

    Returns:
        Origins [..., 3], and rotations [..., 3, 3] whose columns are the axes.
    """
    a, origin, c = atoms_N33.unbind(-2)
    first, second = F.normalize(a - origin, dim=-1), F.normalize(c - origin, dim=-1)
    x, y = F.normalize(first + second, dim=-1), F.normalize(second - first, dim=-1)
    return origin, torch.stack([x, y, torch.linalg.cross(x, y)], dim=-1)


def are_collinear(atoms_N33: Tensor, degrees: float = 25.0) -> Tensor:
    """Return [...] bool, True where three atoms are too close to a line to define a frame."""
    a, origin, c = atoms_N33.unbind(-2)
    cosine = (_unit(a - origin) * _unit(c - origin)).sum(-1).abs()
    return cosine > math.cos(math.radians(degrees))


def _unit(v: Tensor) -> Tensor:
    return v / (v.square().sum(-1, keepdim=True) + 1e-12).sqrt()
