"""Losses of the confidence head (section 4.3 of the AlphaFold 3 supplement).

Each loss compares logits with the errors of the rollout. It is the mean over examples of each
example's mean, so that it does not depend on the distribution of examples over ranks. An example
without a valid entry counts as zero: it is multiplied by zero, not skipped, so that every rank runs
the same graph.

Shape suffixes: B batch, A atoms, N tokens, M atoms of a token, K bins.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from refsys.batch import DNA, LIGAND, RNA, Batch
from refsys.geometry import are_collinear, bisector_frames
from refsys.losses.diffusion import NUCLEOTIDE_RADIUS, RADIUS
from refsys.model.confidence import PAE_BINS, PDE_BINS, PLDDT_BINS, ConfidenceOutput
from refsys.ops.smooth_lddt.reference import THRESHOLDS
from refsys.precision import Precision

# Range of the error bins, ångström; the last bin is open.
LARGEST_ERROR = 32.0
# Range of experimental resolutions that the confidence head is trained on, ångström.
BEST_RESOLUTION, WORST_RESOLUTION = 0.1, 4.0


def confidence_losses(
    output: ConfidenceOutput, rollout_BA3: Tensor, batch: Batch, precision: Precision
) -> dict[str, Tensor]:
    """Return the losses ``plddt``, ``pae``, ``pde`` and ``resolved``, each a scalar.

    Args:
        output: Logits of the confidence head, all rows.
        rollout_BA3: Sampled structure that the logits refer to, ångström.
        batch: Labels.
        precision: Dtypes.
    """
    x_BA3 = rollout_BA3.detach().to(precision.coordinates)
    truth_BA3 = batch["atom_position"].to(precision.coordinates)
    resolution_B = batch["resolution"]
    usable_B = (resolution_B >= BEST_RESOLUTION) & (resolution_B <= WORST_RESOLUTION)
    atom_BA = batch["atom_mask"] & usable_B.unsqueeze(1)
    resolved_BA = batch["atom_resolved"] & usable_B.unsqueeze(1)
    plddt_BAK = of_atoms(output.plddt_BRMK, batch).to(precision.losses)
    resolved_BA2 = of_atoms(output.resolved_BRM2, batch).to(precision.losses)
    lddt_BA, scored_BA = lddt_of_atoms(x_BA3, truth_BA3, batch)
    usable_B11 = usable_B[:, None, None]
    pae_BNN, framed_BNN = aligned_errors(x_BA3, truth_BA3, batch)
    pde_BNN, paired_BNN = distance_errors(x_BA3, truth_BA3, batch)
    return {
        "plddt": _cross_entropy(
            plddt_BAK, _bins(lddt_BA, 1.0, PLDDT_BINS), resolved_BA & scored_BA
        ),
        "pae": _cross_entropy(
            output.pae_BRNK.to(precision.losses),
            _bins(pae_BNN, LARGEST_ERROR, PAE_BINS),
            framed_BNN & usable_B11,
        ),
        "pde": _cross_entropy(
            output.pde_BRNK.to(precision.losses),
            _bins(pde_BNN, LARGEST_ERROR, PDE_BINS),
            paired_BNN & usable_B11,
        ),
        "resolved": _cross_entropy(resolved_BA2, batch["atom_resolved"].long(), atom_BA),
    }


def confidence_loss(losses: Mapping[str, Tensor], pae: float) -> Tensor:
    """Return the weighted sum; `pae` is the weight of the PAE loss, 0 except in the last stage."""
    return losses["plddt"] + losses["pde"] + losses["resolved"] + pae * losses["pae"]


def of_atoms(logits_BNMK: Tensor, batch: Batch) -> Tensor:
    """Return logits [B, A, K] of each atom, by its token and its index in the token."""
    slot_BA = batch["atom_token"].clamp(min=0).long() * logits_BNMK.shape[2]
    slot_BA = slot_BA + batch["atom_slot"].long()
    index = slot_BA.unsqueeze(-1).expand(-1, -1, logits_BNMK.shape[-1])
    return logits_BNMK.flatten(1, 2).gather(1, index)


def _bins(values: Tensor, largest: float, count: int) -> Tensor:
    """Return the bin of each value: equal bins from zero, the last one open."""
    return (values * (count / largest)).long().clamp(0, count - 1)


def _cross_entropy(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Return the mean over examples of each example's mean over its valid entries.

    Args:
        logits: [B, ..., K].
        target: [B, ...] int64.
        valid: [B, ...] bool.
    """
    errors = F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none")
    errors_BE, valid_BE = errors.view(target.shape).flatten(1), valid.flatten(1)
    return ((errors_BE * valid_BE).sum(1) / valid_BE.sum(1).clamp(min=1)).mean()


def token_atom_positions(x_BA3: Tensor, atom_BN: Tensor) -> Tensor:
    """Return positions [B, N, 3] of one atom of each token; atom 0 where the index is −1."""
    return x_BA3.gather(1, atom_BN.clamp(min=0).long().unsqueeze(-1).expand(-1, -1, 3))


def _is_resolved(batch: Batch, atom_BN: Tensor) -> Tensor:
    return (atom_BN >= 0) & batch["atom_resolved"].gather(1, atom_BN.clamp(min=0).long())


def lddt_of_atoms(x_BA3: Tensor, truth_BA3: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the lDDT of each atom (section 4.3.1), and whether it has any distance to score.

    Distances are to the centre atoms (Cα, C1′) of standard residues, at most 15 Å in the label, or
    30 Å to a nucleotide. Modified residues and ligands are scored, but are no reference for other
    atoms.

    Returns:
        lDDT [B, A], 0 to 1, and a mask [B, A] bool.
    """
    atom_BN = batch["center_atom"]
    molecule_BN = batch["molecule"]
    standard_BN = (batch["element"] == 0) & (molecule_BN != LIGAND)
    reference_BN = _is_resolved(batch, atom_BN) & standard_BN & batch["token_mask"]
    nucleotide_BN = (molecule_BN == DNA) | (molecule_BN == RNA)
    radius_BN = torch.where(nucleotide_BN, NUCLEOTIDE_RADIUS, RADIUS)

    def distances(position_BA3: Tensor) -> Tensor:
        return torch.cdist(
            position_BA3,
            token_atom_positions(position_BA3, atom_BN),
            compute_mode="donot_use_mm_for_euclid_dist",
        )

    truth_BAN = distances(truth_BA3)
    self_BAN = torch.arange(x_BA3.shape[1], device=x_BA3.device)[None, :, None] == atom_BN[:, None]
    near_BAN = (truth_BAN < radius_BN.unsqueeze(1)) & reference_BN.unsqueeze(1) & ~self_BAN
    error_BAN = (distances(x_BA3) - truth_BAN).abs()
    score_BAN = torch.stack([error_BAN < t for t in THRESHOLDS]).to(x_BA3.dtype).mean(0)
    count_BA = near_BAN.sum(-1)
    return (score_BAN * near_BAN).sum(-1) / count_BA.clamp(min=1), count_BA > 0


def aligned_errors(x_BA3: Tensor, truth_BA3: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the error [B, N, N] of token j in the frame of token i, and its mask (Alg. 30)."""
    atoms_BN3, representative_BN = batch["frame_atoms"], batch["representative_atom"]

    def in_frames(position_BA3: Tensor) -> tuple[Tensor, Tensor]:
        corners = token_atom_positions(position_BA3, atoms_BN3.flatten(1)).unflatten(1, (-1, 3))
        origin_BN3, rotation_BN33 = bisector_frames(corners)
        positions_BN3 = token_atom_positions(position_BA3, representative_BN)
        offset_BNN3 = positions_BN3.unsqueeze(1) - origin_BN3.unsqueeze(2)
        return torch.einsum("bixy,bijx->bijy", rotation_BN33, offset_BNN3), corners

    predicted_BNN3, _ = in_frames(x_BA3)
    label_BNN3, corners_BN33 = in_frames(truth_BA3)
    framed_BN = torch.stack([_is_resolved(batch, a) for a in atoms_BN3.unbind(-1)]).all(0)
    framed_BN = framed_BN & ~are_collinear(corners_BN33)
    error_BNN = (predicted_BNN3 - label_BNN3).square().sum(-1).sqrt()
    resolved_BN = _is_resolved(batch, representative_BN)
    return error_BNN, framed_BN.unsqueeze(2) & resolved_BN.unsqueeze(1)


def distance_errors(x_BA3: Tensor, truth_BA3: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the error [B, N, N] of distances between representative atoms, and its mask."""
    atom_BN = batch["representative_atom"]

    def distances(position_BA3: Tensor) -> Tensor:
        p_BN3 = token_atom_positions(position_BA3, atom_BN)
        return (p_BN3.unsqueeze(2) - p_BN3.unsqueeze(1)).square().sum(-1).sqrt()

    resolved_BN = _is_resolved(batch, atom_BN)
    error_BNN = (distances(x_BA3) - distances(truth_BA3)).abs()
    return error_BNN, resolved_BN.unsqueeze(2) & resolved_BN.unsqueeze(1)
