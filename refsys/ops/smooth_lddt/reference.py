"""Smooth-LDDT in plain PyTorch, by blocks of atoms, each recomputed in the backward pass.

Shape suffixes: B batch, D samples, A atoms, Q a block of atoms.
"""

import torch
import torch.utils.checkpoint
from torch import Tensor

THRESHOLDS = (0.5, 1.0, 2.0, 4.0)


def smooth_lddt(
    x_BDA3: Tensor,
    truth_BA3: Tensor,
    resolved_BA: Tensor,
    radius_BA: Tensor,
    *,
    block: int,
    atoms: tuple[int, int] | None = None,
) -> Tensor:
    """See `refsys.ops.smooth_lddt.smooth_lddt`."""
    truth_BA3, radius_BA = truth_BA3.detach(), radius_BA.detach()
    scores = []
    for sample in range(x_BDA3.shape[1]):
        total_B = x_BDA3.new_zeros(x_BDA3.shape[0])
        count_B = x_BDA3.new_zeros(x_BDA3.shape[0])
        for rows in blocks(atoms or (0, x_BDA3.shape[2]), block):
            score_B, pairs_B = torch.utils.checkpoint.checkpoint(
                near_pairs,
                x_BDA3[:, sample],
                truth_BA3,
                resolved_BA,
                radius_BA,
                rows,
                use_reentrant=False,
                preserve_rng_state=False,
            )
            total_B, count_B = total_B + score_B, count_B + pairs_B
        scores.append(total_B / count_B.clamp(min=1.0))
    return torch.stack(scores, dim=1)


def near_pairs(
    x_BA3: Tensor, truth_BA3: Tensor, resolved_BA: Tensor, radius_BA: Tensor, rows: slice
) -> tuple[Tensor, Tensor]:
    """Return [B], the score of the near pairs of a block of atoms, and [B], their number."""
    distance_BQA = norm(x_BA3[:, rows].unsqueeze(2) - x_BA3.unsqueeze(1))
    truth_BQA = norm(truth_BA3[:, rows].unsqueeze(2) - truth_BA3.unsqueeze(1))
    atom_A = torch.arange(x_BA3.shape[1], device=x_BA3.device)
    near_BQA = (truth_BQA < radius_BA[:, rows].unsqueeze(2)) & (atom_A[rows].unsqueeze(1) != atom_A)
    near_BQA = near_BQA & resolved_BA[:, rows].unsqueeze(2) & resolved_BA.unsqueeze(1)
    error_BQA = (distance_BQA - truth_BQA).abs()
    score_BQA = sum(torch.sigmoid(t - error_BQA) for t in THRESHOLDS) / len(THRESHOLDS)
    return (score_BQA * near_BQA).sum((1, 2)), near_BQA.sum((1, 2)).to(x_BA3.dtype)


def blocks(atoms: tuple[int, int], size: int) -> list[slice]:
    """Return the blocks of `size` atoms from the first to the last of an interval."""
    first, stop = atoms
    return [slice(start, min(start + size, stop)) for start in range(first, stop, size)]


def norm(offset: Tensor) -> Tensor:
    """Return the length over the last axis, with a finite gradient at zero."""
    return (offset.square().sum(-1) + 1e-10).sqrt()
