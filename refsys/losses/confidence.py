"""Losses of the confidence head (section 4.3 of the AlphaFold 3 supplement).

Each loss compares logits with the errors of the rollout. It is the mean over examples of each
example's mean, so that it does not depend on the distribution of examples over ranks. An example
without a valid entry counts as zero: it is multiplied by zero, not skipped, so that every rank runs
the same graph.

Shape suffixes: B batch, A atoms, O owned atoms, R owned tokens, N tokens, T tokens of the owned
atoms, M atoms of a token, K bins.
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
from refsys.parallel import Layout
from refsys.precision import Precision

# Range of the error bins, ångström; the last bin is open.
LARGEST_ERROR = 32.0
# Range of experimental resolutions that the confidence head is trained on, ångström.
BEST_RESOLUTION, WORST_RESOLUTION = 0.1, 4.0


def confidence_losses(
    output: ConfidenceOutput,
    rollout_BA3: Tensor,
    batch: Batch,
    layout: Layout,
    precision: Precision,
) -> dict[str, Tensor]:
    """Return the losses ``plddt``, ``pae``, ``pde`` and ``resolved``, each a scalar.

    Args:
        output: Logits of the confidence head, of the owned rows.
        rollout_BA3: Sampled structure that the logits refer to, all atoms, ångström.
        batch: Labels.
        layout: Owned rows and atoms.
        precision: Dtypes.
    """
    layout = layout.named("losses")
    x_BA3 = rollout_BA3.detach().to(precision.coordinates)
    truth_BA3 = batch["atom_position"].to(precision.coordinates)
    resolution_B = batch["resolution"]
    usable_B = (resolution_B >= BEST_RESOLUTION) & (resolution_B <= WORST_RESOLUTION)
    atom_BO = layout.local_atoms(batch["atom_mask"], 1) & usable_B.unsqueeze(1)
    resolved_BO = layout.local_atoms(batch["atom_resolved"], 1)
    usable_resolved_BO = resolved_BO & usable_B.unsqueeze(1)
    plddt_BOK = of_atoms(output.plddt_BRMK, batch, layout).to(precision.losses)
    resolved_BO2 = of_atoms(output.resolved_BRM2, batch, layout).to(precision.losses)
    lddt_BO, scored_BO = lddt_of_atoms(x_BA3, truth_BA3, batch, layout)
    usable_B11 = usable_B[:, None, None]
    pae_BRN, framed_BRN = aligned_errors(x_BA3, truth_BA3, batch, layout)
    pde_BRN, paired_BRN = distance_errors(x_BA3, truth_BA3, batch, layout)
    return {
        "plddt": _cross_entropy(
            plddt_BOK, _bins(lddt_BO, 1.0, PLDDT_BINS), usable_resolved_BO & scored_BO, layout
        ),
        "pae": _cross_entropy(
            output.pae_BRNK.to(precision.losses),
            _bins(pae_BRN, LARGEST_ERROR, PAE_BINS),
            framed_BRN & usable_B11,
            layout,
        ),
        "pde": _cross_entropy(
            output.pde_BRNK.to(precision.losses),
            _bins(pde_BRN, LARGEST_ERROR, PDE_BINS),
            paired_BRN & usable_B11,
            layout,
        ),
        "resolved": _cross_entropy(resolved_BO2, resolved_BO.long(), atom_BO, layout),
    }


def confidence_loss(losses: Mapping[str, Tensor], pae: float) -> Tensor:
    """Return the weighted sum; `pae` is the weight of the PAE loss, 0 except in the last stage."""
    return losses["plddt"] + losses["pde"] + losses["resolved"] + pae * losses["pae"]


def of_atoms(logits_BRMK: Tensor, batch: Batch, layout: Layout) -> Tensor:
    """Return logits [B, O, K] of each owned atom, by its token and its index in the token."""
    logits_BTMK = layout.tokens_of_atoms(logits_BRMK, 1)
    token_BO = layout.local_atoms(batch["atom_token"], 1)
    if not layout.is_unsharded:
        token_BO = token_BO - layout.atom_tokens[0]
    slot_BO = token_BO.clamp(min=0).long() * logits_BTMK.shape[2]
    slot_BO = slot_BO + layout.local_atoms(batch["atom_slot"], 1).long()
    index = slot_BO.unsqueeze(-1).expand(-1, -1, logits_BTMK.shape[-1])
    return logits_BTMK.flatten(1, 2).gather(1, index)


def _bins(values: Tensor, largest: float, count: int) -> Tensor:
    """Return the bin of each value: equal bins from zero, the last one open."""
    return (values * (count / largest)).long().clamp(0, count - 1)


def _cross_entropy(logits: Tensor, target: Tensor, valid: Tensor, layout: Layout) -> Tensor:
    """Return the mean over examples of each example's mean over its valid entries.

    Args:
        logits: [B, ..., K], of this rank.
        target: [B, ...] int64.
        valid: [B, ...] bool.
        layout: Layout whose ranks the entries are summed over.
    """
    errors = F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none")
    errors_BE, valid_BE = errors.view(target.shape).flatten(1), valid.flatten(1)
    total_B = layout.sum_ranks((errors_BE * valid_BE).sum(1))
    return (total_B / layout.sum_ranks(valid_BE.sum(1)).clamp(min=1)).mean()


def token_atom_positions(x_BA3: Tensor, atom_BN: Tensor) -> Tensor:
    """Return positions [B, N, 3] of one atom of each token; atom 0 where the index is −1."""
    return x_BA3.gather(1, atom_BN.clamp(min=0).long().unsqueeze(-1).expand(-1, -1, 3))


def _is_resolved(batch: Batch, atom_BN: Tensor) -> Tensor:
    return (atom_BN >= 0) & batch["atom_resolved"].gather(1, atom_BN.clamp(min=0).long())


def lddt_of_atoms(
    x_BA3: Tensor, truth_BA3: Tensor, batch: Batch, layout: Layout
) -> tuple[Tensor, Tensor]:
    """Return the lDDT of each owned atom (section 4.3.1), and whether it has any distance to score.

    Distances are to the centre atoms (Cα, C1′) of standard residues, at most 15 Å in the label, or
    30 Å to a nucleotide. Modified residues and ligands are scored, but are no reference for other
    atoms.

    Returns:
        lDDT [B, O], 0 to 1, and a mask [B, O] bool.
    """
    atom_BN = batch["center_atom"]
    molecule_BN = batch["molecule"]
    standard_BN = (batch["element"] == 0) & (molecule_BN != LIGAND)
    reference_BN = _is_resolved(batch, atom_BN) & standard_BN & batch["token_mask"]
    nucleotide_BN = (molecule_BN == DNA) | (molecule_BN == RNA)
    radius_BN = torch.where(nucleotide_BN, NUCLEOTIDE_RADIUS, RADIUS)

    def distances(position_BA3: Tensor) -> Tensor:
        return torch.cdist(
            layout.local_atoms(position_BA3, 1),
            token_atom_positions(position_BA3, atom_BN),
            compute_mode="donot_use_mm_for_euclid_dist",
        )

    truth_BON = distances(truth_BA3)
    number_O = layout.local_atoms(torch.arange(x_BA3.shape[1], device=x_BA3.device), 0)
    self_BON = number_O[None, :, None] == atom_BN[:, None]
    near_BON = (truth_BON < radius_BN.unsqueeze(1)) & reference_BN.unsqueeze(1) & ~self_BON
    error_BON = (distances(x_BA3) - truth_BON).abs()
    score_BON = torch.stack([error_BON < t for t in THRESHOLDS]).to(x_BA3.dtype).mean(0)
    count_BO = near_BON.sum(-1)
    return (score_BON * near_BON).sum(-1) / count_BO.clamp(min=1), count_BO > 0


def aligned_errors(
    x_BA3: Tensor, truth_BA3: Tensor, batch: Batch, layout: Layout
) -> tuple[Tensor, Tensor]:
    """Return the error [B, R, N] of token j in the frame of token i, and its mask (Alg. 30)."""
    atoms_BN3, representative_BN = batch["frame_atoms"], batch["representative_atom"]

    def in_frames(position_BA3: Tensor) -> tuple[Tensor, Tensor]:
        corners = token_atom_positions(position_BA3, atoms_BN3.flatten(1)).unflatten(1, (-1, 3))
        origin_BR3, rotation_BR33 = (layout.local(t, 1) for t in bisector_frames(corners))
        positions_BN3 = token_atom_positions(position_BA3, representative_BN)
        offset_BRN3 = positions_BN3.unsqueeze(1) - origin_BR3.unsqueeze(2)
        return torch.einsum("bixy,bijx->bijy", rotation_BR33, offset_BRN3), corners

    predicted_BRN3, _ = in_frames(x_BA3)
    label_BRN3, corners_BN33 = in_frames(truth_BA3)
    framed_BN = torch.stack([_is_resolved(batch, a) for a in atoms_BN3.unbind(-1)]).all(0)
    framed_BN = framed_BN & ~are_collinear(corners_BN33)
    error_BRN = (predicted_BRN3 - label_BRN3).square().sum(-1).sqrt()
    resolved_BN = _is_resolved(batch, representative_BN)
    return error_BRN, layout.local(framed_BN, 1).unsqueeze(2) & resolved_BN.unsqueeze(1)


def distance_errors(
    x_BA3: Tensor, truth_BA3: Tensor, batch: Batch, layout: Layout
) -> tuple[Tensor, Tensor]:
    """Return the error [B, R, N] of distances between representative atoms, and its mask."""
    atom_BN = batch["representative_atom"]

    def distances(position_BA3: Tensor) -> Tensor:
        p_BN3 = token_atom_positions(position_BA3, atom_BN)
        return (layout.local(p_BN3, 1).unsqueeze(2) - p_BN3.unsqueeze(1)).square().sum(-1).sqrt()

    resolved_BN = _is_resolved(batch, atom_BN)
    error_BRN = (distances(x_BA3) - distances(truth_BA3)).abs()
    return error_BRN, layout.local(resolved_BN, 1).unsqueeze(2) & resolved_BN.unsqueeze(1)
