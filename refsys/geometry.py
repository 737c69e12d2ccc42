"""Rigid motions: alignment, frames, random rotations. Nothing here waits for the device.

Shape suffixes: A atoms, N tokens.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Squarings of a 4 × 4 matrix: eigenvalues that differ by a part in 10¹² are told apart.
_SQUARINGS = 40


def quaternion_to_rotation(q: Tensor) -> Tensor:
    """[..., 4] quaternions (w, x, y, z), of any length but zero → [..., 3, 3] rotations."""
    w, x, y, z = (q / q.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def best_rotation(covariance: Tensor) -> Tensor:
    """The rotation R that maximizes trace(R · covariance), never a reflection.

    Horn's quaternion: the top eigenvector of a symmetric 4 × 4 matrix, by repeated squaring of the
    matrix. The library's decompositions would make the host wait for the device.

    Args:
        covariance: [..., 3, 3], Σ y xᵀ of the points y that are turned onto the points x, rows y.

    Returns:
        [..., 3, 3]; some rotation where the best one is not unique.
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
    # No eigenvalue is larger than the Frobenius norm: shifted by it, none is negative.
    size = matrix.square().sum((-1, -2), keepdim=True).sqrt()
    power = matrix / size.clamp(min=torch.finfo(s.dtype).tiny) + one
    for _ in range(_SQUARINGS):
        power = power @ power
        power = power / power.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    # What is left is v vᵀ; its longest column is v.
    place = power.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
    column = power.gather(-1, place.expand(*power.shape[:-1], 1)).squeeze(-1)
    return quaternion_to_rotation(column)


def weighted_mean(x_A3: Tensor, weight_A: Tensor) -> Tensor:
    """[..., 1, 3]: the mean of points [..., A, 3] by weights [..., A]; zero if all are zero."""
    total = weight_A.sum(-1, keepdim=True).clamp(min=torch.finfo(weight_A.dtype).tiny)
    return ((weight_A / total).unsqueeze(-1) * x_A3).sum(-2, keepdim=True)


@torch.no_grad()
def aligned(x_A3: Tensor, onto_A3: Tensor, weight_A: Tensor, dtype: torch.dtype) -> Tensor:
    """Algorithm 28: `x` moved rigidly so that it lies best on `onto`. Passes no gradient.

    Args:
        x_A3: [..., A, 3] points to move.
        onto_A3: [..., A, 3] points to meet, in the same order.
        weight_A: [..., A] weights, at least zero.
        dtype: What the motion is computed in.

    Returns:
        [..., A, 3] in the dtype of `x`.
    """
    x, onto, weight = (t.to(dtype) for t in (x_A3, onto_A3, weight_A))
    center, target = weighted_mean(x, weight), weighted_mean(onto, weight)
    covariance = torch.einsum("...a,...ax,...ay->...xy", weight, x - center, onto - target)
    rotation = best_rotation(covariance.to(torch.float64)).to(dtype)
    return ((x - center) @ rotation.transpose(-1, -2) + target).to(x_A3.dtype)


def frames(atoms_N33: Tensor) -> tuple[Tensor, Tensor]:
    """Origins and Gram-Schmidt axes of three atoms each (AlphaFold 2, Algorithm 21).

    Templates are described in these frames, as in the released code.

    Args:
        atoms_N33: [..., 3 atoms, 3]; the middle one is the origin, the third gives the x axis.

    Returns:
        Origins [..., 3], and rotations [..., 3, 3] whose columns are the axes.
    """
    a, origin, c = atoms_N33.unbind(-2)
    x = _unit(c - origin)
    away = a - origin
    y = _unit(away - (x * away).sum(-1, keepdim=True) * x)
    return origin, torch.stack([x, y, torch.linalg.cross(x, y)], dim=-1)


def bisector_frames(atoms_N33: Tensor) -> tuple[Tensor, Tensor]:
    """Origins and axes of three atoms each, from the sum and the difference of their unit bonds.

    The aligned error is measured in these frames (AlphaFold 3, Algorithm 29).

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
    """[...] bool: whether three atoms are too nearly in line to make a frame."""
    a, origin, c = atoms_N33.unbind(-2)
    cosine = (_unit(a - origin) * _unit(c - origin)).sum(-1).abs()
    return cosine > math.cos(math.radians(degrees))


def _unit(v: Tensor) -> Tensor:
    return v / (v.square().sum(-1, keepdim=True) + 1e-12).sqrt()
