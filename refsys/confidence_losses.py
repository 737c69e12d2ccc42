"""Losses of the confidence head (section 4.3 of the AlphaFold 3 supplement).

Each compares logits with what the rollout really got wrong. A loss without a valid entry is zero by
multiplication, never skipped.

Shape suffixes: B batch, A atoms, N tokens, M atoms of a token, K bins, Q a block of atoms.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from refsys.batch import DNA, LIGAND, RNA, Batch
from refsys.diffusion_losses import NUCLEOTIDE_RADIUS, RADIUS
from refsys.geometry import are_collinear, frames
from refsys.model.confidence import PAE_BINS, PDE_BINS, PLDDT_BINS, ConfidenceOutput
from refsys.ops.smooth_lddt.reference import THRESHOLDS
from refsys.precision import Precision

# Range of the error bins, ångström; the last is open.
LARGEST_ERROR = 32.0
# Experiments whose resolution says enough, ångström.
BEST_RESOLUTION, WORST_RESOLUTION = 0.1, 4.0


def confidence_losses(
    output: ConfidenceOutput, rollout_BA3: Tensor, batch: Batch, precision: Precision
) -> dict[str, Tensor]:
    """``plddt``, ``pae``, ``pde`` and ``resolved``, each a scalar.

    Args:
        output: The head's logits, all rows.
        rollout_BA3: The sampled structure that it judged, ångström.
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
    near_BNN = usable_B[:, None, None]
    pae_BNN, framed_BNN = aligned_errors(x_BA3, truth_BA3, batch)
    pde_BNN, paired_BNN = distance_errors(x_BA3, truth_BA3, batch)
    return {
        "plddt": _cross_entropy(
            plddt_BAK, _bins(lddt_BA, 1.0, PLDDT_BINS), resolved_BA & scored_BA
        ),
        "pae": _cross_entropy(
            output.pae_BRNK.to(precision.losses),
            _bins(pae_BNN, LARGEST_ERROR, PAE_BINS),
            framed_BNN & near_BNN,
        ),
        "pde": _cross_entropy(
            output.pde_BRNK.to(precision.losses),
            _bins(pde_BNN, LARGEST_ERROR, PDE_BINS),
            paired_BNN & near_BNN,
        ),
        "resolved": _cross_entropy(resolved_BA2, batch["atom_resolved"].long(), atom_BA),
    }


def confidence_loss(losses: Mapping[str, Tensor], pae: float) -> Tensor:
    """Their weighed sum; `pae` is the weight of the aligned error, 0 but in the last stage."""
    return losses["plddt"] + losses["pde"] + losses["resolved"] + pae * losses["pae"]


def of_atoms(logits_BNMK: Tensor, batch: Batch) -> Tensor:
    """[B, A, K]: of each atom's place in its token."""
    place_BA = batch["atom_token"].clamp(min=0).long() * logits_BNMK.shape[2]
    place_BA = place_BA + batch["atom_slot"].long()
    index = place_BA.unsqueeze(-1).expand(-1, -1, logits_BNMK.shape[-1])
    return logits_BNMK.flatten(1, 2).gather(1, index)


def _bins(values: Tensor, largest: float, count: int) -> Tensor:
    """Equal bins from zero; what is beyond belongs to the last."""
    return (values * (count / largest)).long().clamp(0, count - 1)


def _cross_entropy(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    errors = F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none")
    kept = valid.flatten()
    return (errors * kept).sum() / kept.sum().clamp(min=1)


def places_of_tokens(x_BA3: Tensor, atom_BN: Tensor) -> Tensor:
    """[B, N, 3]: where an atom of each token is; the first atom's place where there is none."""
    return x_BA3.gather(1, atom_BN.clamp(min=0).long().unsqueeze(-1).expand(-1, -1, 3))


def _is_resolved(batch: Batch, atom_BN: Tensor) -> Tensor:
    return (atom_BN >= 0) & batch["atom_resolved"].gather(1, atom_BN.clamp(min=0).long())


def lddt_of_atoms(x_BA3: Tensor, truth_BA3: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """[B, A] lDDT of each atom to polymers' representative atoms, and whether there were any.

    Only atoms within 15 Å in the label count, 30 Å if the other one is a nucleotide's.
    """
    atom_BN = batch["representative_atom"]
    molecule_BN = batch["molecule"]
    other_BN = _is_resolved(batch, atom_BN) & (molecule_BN != LIGAND) & batch["token_mask"]
    nucleotide_BN = (molecule_BN == DNA) | (molecule_BN == RNA)
    radius_BN = torch.where(nucleotide_BN, NUCLEOTIDE_RADIUS, RADIUS)

    def distances(position_BA3: Tensor) -> Tensor:
        return torch.cdist(
            position_BA3,
            places_of_tokens(position_BA3, atom_BN),
            compute_mode="donot_use_mm_for_euclid_dist",
        )

    truth_BAN = distances(truth_BA3)
    itself_BAN = (
        torch.arange(x_BA3.shape[1], device=x_BA3.device)[None, :, None] == atom_BN[:, None]
    )
    near_BAN = (truth_BAN < radius_BN.unsqueeze(1)) & other_BN.unsqueeze(1) & ~itself_BAN
    error_BAN = (distances(x_BA3) - truth_BAN).abs()
    score_BAN = torch.stack([error_BAN < t for t in THRESHOLDS]).to(x_BA3.dtype).mean(0)
    count_BA = near_BAN.sum(-1)
    return (score_BAN * near_BAN).sum(-1) / count_BA.clamp(min=1), count_BA > 0


def aligned_errors(x_BA3: Tensor, truth_BA3: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """[B, N, N] how far token j is from its place in token i's frame, and whether that is known."""
    atoms_BN3, center_BN = batch["frame_atoms"], batch["representative_atom"]

    def seen(position_BA3: Tensor) -> tuple[Tensor, Tensor]:
        corners = places_of_tokens(position_BA3, atoms_BN3.flatten(1)).unflatten(1, (-1, 3))
        origin_BN3, rotation_BN33 = frames(corners)
        offset_BNN3 = places_of_tokens(position_BA3, center_BN).unsqueeze(1) - origin_BN3.unsqueeze(
            2
        )
        return torch.einsum("bixy,bijx->bijy", rotation_BN33, offset_BNN3), corners

    ours_BNN3, _ = seen(x_BA3)
    theirs_BNN3, corners_BN33 = seen(truth_BA3)
    whole_BN = torch.stack([_is_resolved(batch, a) for a in atoms_BN3.unbind(-1)]).all(0)
    whole_BN = whole_BN & ~are_collinear(corners_BN33)
    error_BNN = (ours_BNN3 - theirs_BNN3).square().sum(-1).sqrt()
    return error_BNN, whole_BN.unsqueeze(2) & _is_resolved(batch, center_BN).unsqueeze(1)


def distance_errors(x_BA3: Tensor, truth_BA3: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """[B, N, N] how wrong each distance of representative atoms is, and whether that is known."""
    atom_BN = batch["representative_atom"]

    def distances(position_BA3: Tensor) -> Tensor:
        p_BN3 = places_of_tokens(position_BA3, atom_BN)
        return (p_BN3.unsqueeze(2) - p_BN3.unsqueeze(1)).square().sum(-1).sqrt()

    known_BN = _is_resolved(batch, atom_BN)
    error_BNN = (distances(x_BA3) - distances(truth_BA3)).abs()
    return error_BNN, known_BN.unsqueeze(2) & known_BN.unsqueeze(1)
