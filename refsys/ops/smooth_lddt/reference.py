"""Smooth-LDDT in plain PyTorch, block by block, each made again in the backward pass.

Shape suffixes: B batch, D samples, A atoms, Q a block of atoms.
"""

import torch
import torch.utils.checkpoint
from torch import Tensor

THRESHOLDS = (0.5, 1.0, 2.0, 4.0)


def smooth_lddt(
    x_BDA3: Tensor, truth_BA3: Tensor, resolved_BA: Tensor, radius_BA: Tensor, *, block: int
) -> Tensor:
    """See `refsys.ops.smooth_lddt.smooth_lddt`."""
    atoms = x_BDA3.shape[2]
    truth_BA3, radius_BA = truth_BA3.detach(), radius_BA.detach()
    scores = []
    for sample in range(x_BDA3.shape[1]):
        total_B = x_BDA3.new_zeros(x_BDA3.shape[0])
        count_B = x_BDA3.new_zeros(x_BDA3.shape[0])
        for first in range(0, atoms, block):
            own = slice(first, min(first + block, atoms))
            found_B, pairs_B = torch.utils.checkpoint.checkpoint(
                _near_pairs,
                x_BDA3[:, sample],
                truth_BA3,
                resolved_BA,
                radius_BA,
                own,
                use_reentrant=False,
                preserve_rng_state=False,
            )
            total_B, count_B = total_B + found_B, count_B + pairs_B
        scores.append(total_B / count_B.clamp(min=1.0))
    return torch.stack(scores, dim=1)


def _near_pairs(
    x_BA3: Tensor, truth_BA3: Tensor, resolved_BA: Tensor, radius_BA: Tensor, own: slice
) -> tuple[Tensor, Tensor]:
    """[B] the scores of the pairs of a block of atoms with all others, and how many pairs."""
    distance_BQA = norm(x_BA3[:, own].unsqueeze(2) - x_BA3.unsqueeze(1))
    truth_BQA = norm(truth_BA3[:, own].unsqueeze(2) - truth_BA3.unsqueeze(1))
    places = torch.arange(x_BA3.shape[1], device=x_BA3.device)
    near_BQA = (truth_BQA < radius_BA[:, own].unsqueeze(2)) & (places[own].unsqueeze(1) != places)
    near_BQA = near_BQA & resolved_BA[:, own].unsqueeze(2) & resolved_BA.unsqueeze(1)
    error_BQA = (distance_BQA - truth_BQA).abs()
    score_BQA = sum(torch.sigmoid(t - error_BQA) for t in THRESHOLDS) / len(THRESHOLDS)
    return (score_BQA * near_BQA).sum((1, 2)), near_BQA.sum((1, 2)).to(x_BA3.dtype)


def norm(offset: Tensor) -> Tensor:
    """Lengths whose gradient is finite at zero."""
    return (offset.square().sum(-1) + 1e-10).sqrt()
