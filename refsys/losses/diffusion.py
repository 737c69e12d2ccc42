"""Losses of denoised positions (section 3.7.1 of the AlphaFold 3 supplement).

None of them materializes a tensor of samples × atoms²: smooth-LDDT processes the pairs in blocks,
which it recomputes in the backward pass.

Shape suffixes: B batch, D diffusion samples, A atoms, O owned atoms, N tokens, E ligand bonds, Q a
block of atoms.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from refsys.batch import DNA, LIGAND, RNA, Batch
from refsys.geometry import aligned
from refsys.model.diffusion_conditioning import SIGMA_DATA
from refsys.ops.smooth_lddt import near_pairs, smooth_lddt
from refsys.ops.smooth_lddt.reference import norm
from refsys.parallel import Layout
from refsys.precision import Precision

NUCLEOTIDE_WEIGHT = 5.0
LIGAND_WEIGHT = 10.0
# Cutoff of local distances, ångström: to nucleotides, and to all other atoms.
NUCLEOTIDE_RADIUS, RADIUS = 30.0, 15.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusionLossConfig:
    """Weights of the three terms.

    Attributes:
        bond: Weight α of the ligand-bond loss: 0 in initial training, 1 in fine-tuning.
        smooth_lddt: Weight of smooth-LDDT.
        block: Atoms in a block of the pairs of smooth-LDDT.
    """

    bond: float = 0.0
    smooth_lddt: float = 1.0
    block: int = 1024


def of_atoms_token(values_BN: Tensor, batch: Batch) -> Tensor:
    """Return the token values [B, N] broadcast to the atoms, [B, A]."""
    return values_BN.gather(1, batch["atom_token"].clamp(min=0).long())


def atom_weights(batch: Batch, dtype: torch.dtype) -> Tensor:
    """Return weights [B, A]: 1 for proteins, 6 for nucleotides, 11 for ligands, 0 if unresolved."""
    molecule_BA = of_atoms_token(batch["molecule"], batch)
    weight_BA = torch.ones_like(molecule_BA, dtype=dtype)
    nucleotide_BA = (molecule_BA == DNA) | (molecule_BA == RNA)
    weight_BA = (
        weight_BA + NUCLEOTIDE_WEIGHT * nucleotide_BA + LIGAND_WEIGHT * (molecule_BA == LIGAND)
    )
    return weight_BA * batch["atom_resolved"]


def diffusion_loss(
    denoised_BDA3: Tensor,
    sigma_BD: Tensor,
    batch: Batch,
    config: DiffusionLossConfig,
    layout: Layout,
    precision: Precision,
) -> dict[str, Tensor]:
    """Return the terms of the diffusion loss, each a scalar mean over examples and samples.

    Args:
        denoised_BDA3: Denoised positions of all atoms, ångström.
        sigma_BD: Noise levels of the samples, ångström.
        batch: Labels; `atom_position` is aligned to each sample before the comparison.
        config: Weights.
        layout: Atoms whose terms this rank computes.
        precision: Dtypes.

    Returns:
        ``mse`` and ``bond``, weighted by noise level, ``smooth_lddt``, and the weighted sum
        ``diffusion``.
    """
    x_BDA3 = denoised_BDA3.to(precision.losses)
    weight_BA = atom_weights(batch, precision.losses)
    truth_B1A3 = batch["atom_position"].to(precision.coordinates).unsqueeze(1)
    target_BDA3 = aligned(
        truth_B1A3.expand_as(x_BDA3),
        x_BDA3.detach(),
        weight_BA.unsqueeze(1).expand(x_BDA3.shape[:-1]),
        precision.alignments,
    )
    sigma_BD = sigma_BD.to(precision.losses)
    level_BD = (sigma_BD.square() + SIGMA_DATA**2) / (sigma_BD * SIGMA_DATA).square()
    layout = layout.named("losses")
    mse = (level_BD * mean_squared_error(x_BDA3, target_BDA3, weight_BA, batch, layout)).mean()
    bond = (level_BD * bond_error(x_BDA3, batch, layout)).mean()
    lddt = (1.0 - local_score(x_BDA3, batch, config.block, layout)).mean()
    return {
        "mse": mse,
        "bond": bond,
        "smooth_lddt": lddt,
        "diffusion": mse + config.bond * bond + config.smooth_lddt * lddt,
    }


def mean_squared_error(
    x_BDA3: Tensor, target_BDA3: Tensor, weight_BA: Tensor, batch: Batch, layout: Layout
) -> Tensor:
    """Return [B, D], one third of the mean over resolved atoms of w ‖x − target‖²."""
    x_BDO3, target_BDO3 = (layout.local_atoms(x, 2) for x in (x_BDA3, target_BDA3))
    square_BDO = (x_BDO3 - target_BDO3.to(x_BDA3.dtype)).square().sum(-1)
    count_B = batch["atom_resolved"].sum(-1).clamp(min=1)
    weight_BO = layout.local_atoms(weight_BA, 1)
    total_BD = layout.sum_ranks((square_BDO * weight_BO.unsqueeze(1)).sum(-1))
    return total_BD / (3.0 * count_B.unsqueeze(1))


def bond_error(x_BDA3: Tensor, batch: Batch, layout: Layout) -> Tensor:
    """Return [B, D], the mean over ligand bonds of the squared error in length."""
    ends_BE2 = batch["ligand_bonds"]
    resolved_BA = batch["atom_resolved"]
    first_BE, second_BE = ends_BE2.clamp(min=0).long().unbind(-1)
    valid_BE = (ends_BE2 >= 0).all(-1)
    valid_BE = valid_BE & resolved_BA.gather(1, first_BE) & resolved_BA.gather(1, second_BE)
    truth_B1A3 = batch["atom_position"].to(x_BDA3.dtype).unsqueeze(1)
    difference_BDE = _lengths(x_BDA3, first_BE, second_BE)
    difference_BDE = difference_BDE - _lengths(truth_B1A3, first_BE, second_BE)
    count_B1 = valid_BE.sum(-1, keepdim=True).clamp(min=1)
    if not layout.is_unsharded:
        # The rank that owns the first atom of a bond adds its term.
        valid_BE = valid_BE & (first_BE >= layout.atom_start) & (first_BE < layout.atom_stop)
    total_BD = layout.sum_ranks((difference_BDE.square() * valid_BE.unsqueeze(1)).sum(-1))
    return total_BD / count_B1


def _lengths(x_BDA3: Tensor, first_BE: Tensor, second_BE: Tensor) -> Tensor:
    """Return bond lengths [B, D, E]."""

    def positions(end_BE: Tensor) -> Tensor:
        index = end_BE[:, None, :, None].expand(-1, x_BDA3.shape[1], -1, 3)
        return x_BDA3.gather(2, index)

    return norm(positions(first_BE) - positions(second_BE))


def local_score(x_BDA3: Tensor, batch: Batch, block: int, layout: Layout) -> Tensor:
    """Return smooth-LDDT [B, D] against the label, with a larger cutoff for nucleotides.

    Args:
        x_BDA3: Predicted positions, ångström.
        batch: Labels: `atom_position` and `atom_resolved`.
        block: See `refsys.ops.smooth_lddt`.
        layout: Atoms whose pairs this rank computes.
    """
    molecule_BA = of_atoms_token(batch["molecule"], batch)
    nucleotide_BA = (molecule_BA == DNA) | (molecule_BA == RNA)
    radius_BA = torch.where(nucleotide_BA, NUCLEOTIDE_RADIUS, RADIUS).to(x_BDA3.dtype)
    truth_BA3 = batch["atom_position"].to(x_BDA3.dtype)
    resolved_BA = batch["atom_resolved"]
    if layout.is_unsharded:
        return smooth_lddt(x_BDA3, truth_BA3, resolved_BA, radius_BA, block=block)
    owned = layout.atom_start, layout.atom_stop
    # A quarter of the owned atoms at once: the pairs are then a small part of the pair tensor.
    block = min(block, max((owned[1] - owned[0]) // 4, 1))
    score_BD = smooth_lddt(x_BDA3, truth_BA3, resolved_BA, radius_BA, block=block, atoms=owned)
    pairs_B1 = near_pairs(truth_BA3, resolved_BA, radius_BA, owned, block).unsqueeze(1)
    total_BD = layout.sum_ranks(score_BD * pairs_B1)
    return total_BD / layout.sum_ranks(pairs_B1).clamp(min=1.0)
