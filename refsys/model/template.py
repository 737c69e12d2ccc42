"""Template embedder (Algorithm 16).

Shape suffixes: B batch, M templates, R owned tokens, N all tokens, C pair channels, T template
width.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refsys.batch import Batch
from refsys.config import ModelConfig
from refsys.geometry import frames
from refsys.model.context import Context
from refsys.model.initialization import he
from refsys.model.layers import LayerNorm, Linear, OneHotLinear
from refsys.model.pairformer import PairStack
from refsys.ops.rounds import equal_rounds
from refsys.precision import Precision

RESIDUE_CLASSES = 31
# Edges of the distance bins, ångström; the last bin is open.
FIRST_EDGE, LAST_EDGE, BINS = 3.25, 50.75, 39
_FACTOR = 2


class TemplateFeatures(NamedTuple):
    """Template features of a batch.

    Attributes:
        residue_type_BMN: Residue class of each token in each template.
        pseudo_beta_BMN3: Position of the representative atom of each token, ångström.
        pseudo_beta_mask_BMN: False where that atom is not resolved.
        frame_rotation_BMN33: Rotation of the backbone frame; its columns are the axes.
        frame_origin_BMN3: Origin of the backbone frame, ångström.
        frame_mask_BMN: False where there is no backbone frame.
        chain_BN: Chain of each token; distances and directions between chains are masked.
    """

    residue_type_BMN: Tensor
    pseudo_beta_BMN3: Tensor
    pseudo_beta_mask_BMN: Tensor
    frame_rotation_BMN33: Tensor
    frame_origin_BMN3: Tensor
    frame_mask_BMN: Tensor
    chain_BN: Tensor


def template_features(batch: Batch, precision: Precision) -> TemplateFeatures:
    """Return the template features of a batch, with frames in the dtype of coordinates."""
    origin_BMN3, rotation_BMN33 = frames(batch["template_backbone"].to(precision.coordinates))
    return TemplateFeatures(
        batch["template_residue_type"],
        batch["template_pseudo_beta"],
        batch["template_pseudo_beta_mask"],
        rotation_BMN33,
        origin_BMN3,
        batch["template_backbone_mask"],
        batch["asym_id"],
    )


class TemplateEmbedder(nn.Module):
    """Algorithm 16: pair update from structures of homologous chains."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        width = config.c_t
        self.norm_z = LayerNorm(config.c_z, precision)
        self.linear_z = Linear(config.c_z, width, precision=precision)
        # Distance bins, two masks, the unit vector, the residue classes of both tokens.
        self.linear = OneHotLinear(BINS + 5 + 2 * RESIDUE_CLASSES, width, precision=precision)
        self.blocks = nn.ModuleList(
            PairStack(width, config.pair_heads, config.pair_dropout, _FACTOR, precision)
            for _ in range(config.template_blocks)
        )
        self.norm_out = LayerNorm(width, precision)
        self.linear_out = Linear(width, config.c_z, initializer=he, precision=precision)
        self.coordinates = precision.coordinates
        self.dtype = precision.activations

    def forward(
        self,
        z_BRNC: Tensor,
        features: TemplateFeatures,
        mask_BRN: Tensor,
        context: Context,
        *,
        in_place: bool = False,
    ) -> Tensor:
        """Return the pair update [B, R, N, C], without the residual.

        The mean is over all slots, as in the released code. An empty slot is embedded as a template
        of gaps without positions.

        Args:
            z_BRNC: Pair slab.
            features: Templates.
            mask_BRN: False where a token is padding.
            context: Layout and memory savings.
            in_place: Whether the update is added to the slab, which is returned, where
                `Context.writes_over_pairs` holds.
        """
        if in_place:
            return self._write_over(z_BRNC, features, mask_BRN, context)
        query_BRNT = context.by_rows(self._query, z_BRNC)
        total = torch.zeros_like(query_BRNT)
        slots = features.residue_type_BMN.shape[1]
        for number in range(slots):
            v_BRNT = query_BRNT + self._embed(features, number, context)
            for block in self.blocks:
                v_BRNT = context.run(block, v_BRNT, mask_BRN)
            total = total + context.by_rows(self.norm_out, v_BRNT)
        return self.linear_out(F.relu(total / max(slots, 1)))

    def _write_over(
        self, z_BRNC: Tensor, features: TemplateFeatures, mask_BRN: Tensor, context: Context
    ) -> Tensor:
        """Write the slab with the update added over `z_BRNC`."""
        query_BRNT = context.by_rows(self._query, z_BRNC)
        total_BRNT = torch.zeros_like(query_BRNT)
        slots = features.residue_type_BMN.shape[1]
        for number in equal_rounds(range(slots)):
            v_BRNT = query_BRNT.clone()
            for first in range(0, v_BRNT.shape[1], context.chunks.rows):
                rows_BrNT = v_BRNT[:, first : first + context.chunks.rows]
                layout = context.layout.narrowed(first, first + rows_BrNT.shape[1])
                rows_BrNT += self._embed(features, number, replace(context, layout=layout))
            for block in self.blocks:
                v_BRNT = context.run(block, v_BRNT, mask_BRN)
            total_BRNT = context.update_rows(self._add_normed, total_BRNT, v_BRNT, axes=(1, 1))
            del v_BRNT
        del query_BRNT

        def updated(z_BrNC: Tensor, total_BrNT: Tensor) -> Tensor:
            return z_BrNC + self.linear_out(F.relu(total_BrNT / max(slots, 1)))

        return context.update_rows(updated, z_BRNC, total_BRNT, axes=(1, 1))

    def _add_normed(self, total_BRNT: Tensor, v_BRNT: Tensor) -> Tensor:
        return total_BRNT + self.norm_out(v_BRNT)

    def _query(self, z_BRNC: Tensor) -> Tensor:
        return self.linear_z(z_BRNC, norm=self.norm_z)

    def _embed(self, features: TemplateFeatures, number: int, context: Context) -> Tensor:
        """Return the features of one template [B, R, N, T]; only residue classes across chains."""
        layout, look, scaled = context.layout, self.linear.lookup, self.linear.scaled
        positions_BN3 = features.pseudo_beta_BMN3[:, number].to(self.coordinates)
        resolved_BN = features.pseudo_beta_mask_BMN[:, number]
        framed_BN = features.frame_mask_BMN[:, number]
        types_BN = features.residue_type_BMN[:, number]
        chain_BN = features.chain_BN

        def both(mask_BN: Tensor) -> Tensor:
            return layout.local(mask_BN, 1).unsqueeze(2) & mask_BN.unsqueeze(1)

        same_BRN = layout.local(chain_BN, 1).unsqueeze(2) == chain_BN.unsqueeze(1)
        distance_mask_BRN, frame_mask_BRN = both(resolved_BN) & same_BRN, both(framed_BN) & same_BRN
        offsets = layout.local(positions_BN3, 1).unsqueeze(2) - positions_BN3.unsqueeze(1)
        distances_BRN = offsets.square().sum(-1).sqrt()
        edges = torch.linspace(
            FIRST_EDGE, LAST_EDGE, BINS, dtype=self.coordinates, device=distances_BRN.device
        )
        # Distances below the first edge have no bin.
        bins_BRN = torch.bucketize(distances_BRN, edges, right=True) - 1
        binned_BRN = (bins_BRN >= 0) & distance_mask_BRN
        v_BRNT = look(bins_BRN.clamp(min=0), 0, self.dtype) * binned_BRN.unsqueeze(-1)
        v_BRNT = v_BRNT + scaled(distance_mask_BRN, BINS, self.dtype)
        v_BRNT = v_BRNT + scaled(frame_mask_BRN, BINS + 1, self.dtype)
        unit_BRN3 = self._unit_vectors(features, number, context) * frame_mask_BRN.unsqueeze(-1)
        for axis in range(3):
            v_BRNT = v_BRNT + scaled(unit_BRN3[..., axis], BINS + 2 + axis, self.dtype)
        first = BINS + 5
        rows = look(layout.local(types_BN, 1), first, self.dtype).unsqueeze(2)
        columns = look(types_BN, first + RESIDUE_CLASSES, self.dtype).unsqueeze(1)
        return v_BRNT + rows + columns

    def _unit_vectors(self, features: TemplateFeatures, number: int, context: Context) -> Tensor:
        """Return the direction [B, R, N, 3] to the origin of token j in the frame of token i."""
        rotation = context.layout.local(features.frame_rotation_BMN33[:, number], 1)
        origin = features.frame_origin_BMN3[:, number].to(self.coordinates)
        offsets = origin.unsqueeze(1) - context.layout.local(origin, 1).unsqueeze(2)
        local = torch.einsum("brxy,brnx->brny", rotation.to(self.coordinates), offsets)
        return local / (local.square().sum(-1, keepdim=True) + 1e-6).sqrt()
