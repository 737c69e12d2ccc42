"""Smooth-LDDT (Algorithm 27): differentiable agreement of local distances with the label."""

import torch
from torch import Tensor

from refsys.errors import ArgumentError
from refsys.ops.backend import Implementation, Operator
from refsys.ops.contract import check, check_rank, nbytes
from refsys.ops.smooth_lddt import reference, triton

_OPERATOR = Operator(
    "smooth_lddt",
    reference.smooth_lddt,
    flops=lambda *_arguments, **_options: 0,
    minimum_bytes=lambda x, truth, resolved, radius, **_options: (
        nbytes(x, truth, resolved, radius) + x.shape[0] * x.shape[1] * x.element_size()
    ),
    kernels={"triton": Implementation(triton.smooth_lddt, triton.unsupported_reason)},
)


def smooth_lddt(
    x: Tensor,
    truth: Tensor,
    resolved: Tensor,
    radius: Tensor,
    *,
    block: int = 1024,
    atoms: tuple[int, int] | None = None,
    backend: str | None = None,
) -> Tensor:
    """Mean over near pairs and thresholds t of ``sigmoid(t − |δ|)``, for each sample.

    A pair is near if the label's distance is less than its first atom's radius; δ is the difference
    of the two distances. Only `x` is differentiated.

    Args:
        x: [batch, sample, atom, 3] positions.
        truth: [batch, atom, 3], the label, dtype of `x`.
        resolved: [batch, atom] bool, True for an atom that the label has.
        radius: [batch, atom], distance up to which a pair is near; dtype of `x`.
        block: Atoms whose pairs plain PyTorch holds at once.
        atoms: First of the atoms that pairs start from, and one past the last; all of them if None.
        backend: See `refsys.ops.backend`.

    Returns:
        [batch, sample] in the dtype of `x`; 0 where no pair is near.

    Raises:
        ArgumentError: a shape, dtype or device does not fit, or `block` is less than 1.
    """
    check_rank("x", x, "batch sample atom 3")
    batch, samples, count, _three = x.shape
    check("x", x, (batch, samples, count, 3), like=x)
    check("truth", truth, (batch, count, 3), like=x, dtype=x.dtype)
    check("resolved", resolved, (batch, count), like=x, dtype=torch.bool)
    check("radius", radius, (batch, count), like=x, dtype=x.dtype)
    if block < 1:
        raise ArgumentError(f"block={block} is less than 1")
    if atoms is None:
        return _OPERATOR(x, truth, resolved, radius, block=block, backend=backend)
    first, stop = atoms
    if not 0 <= first < stop <= count:
        raise ArgumentError(f"atoms={atoms} is no interval of the {count} atoms")
    number = torch.arange(count, device=x.device)
    # Tiles of the kernels reach beyond the interval; nothing is near an atom whose radius is zero.
    radius = radius * ((number >= first) & (number < stop))
    return _OPERATOR(x, truth, resolved, radius, block=block, atoms=atoms, backend=backend)


def near_pairs(
    truth: Tensor, resolved: Tensor, radius: Tensor, atoms: tuple[int, int], block: int = 1024
) -> Tensor:
    """Return [batch], the number of near pairs that start from some atoms.

    Args:
        truth: As for `smooth_lddt`.
        resolved: As for `smooth_lddt`.
        radius: As for `smooth_lddt`.
        atoms: First of these atoms, and one past the last.
        block: Atoms whose pairs are held at once.
    """
    count = truth.new_zeros(truth.shape[0])
    for rows in reference.blocks(atoms, block):
        count = count + reference.near_pairs(truth, truth, resolved, radius, rows)[1]
    return count
