"""Confidence head (Algorithm 31): predicted errors of a structure.

Shape suffixes: B batch, R owned tokens, N all tokens, S single width, C pair channels, I width of
the input single representation, M atoms of a token, K bins.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from refsys.config import ModelConfig
from refsys.model.context import Context
from refsys.model.initialization import zeros
from refsys.model.layers import LayerNorm, Linear, OneHotLinear
from refsys.model.pairformer import PairformerBlock
from refsys.precision import Precision

ATOMS_PER_TOKEN = 24
PLDDT_BINS, PAE_BINS, PDE_BINS = 50, 64, 64
# Edges of the bins of predicted distances, ångström.
FIRST_EDGE, LAST_EDGE, DISTANCE_BINS = 3.25, 50.75, 39


class ConfidenceOutput(NamedTuple):
    """Confidence logits of the owned rows."""

    plddt_BRMK: Tensor
    pae_BRNK: Tensor
    pde_BRNK: Tensor
    resolved_BRM2: Tensor


class ConfidenceHead(nn.Module):
    """Algorithm 31. The inputs are detached, so that its losses do not train the trunk."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        c_s, c_z, c_i = config.c_s, config.c_z, config.c_s_inputs
        self.linear_i = Linear(c_i, c_z, precision=precision)
        self.linear_j = Linear(c_i, c_z, precision=precision)
        self.linear_distance = OneHotLinear(DISTANCE_BINS, c_z, precision=precision)
        # No dropout in the confidence head.
        without_dropout = replace(config, pair_dropout=0.0)
        self.blocks = nn.ModuleList(
            PairformerBlock(without_dropout, precision) for _ in range(config.confidence_blocks)
        )
        self.norm_pae = LayerNorm(c_z, precision)
        self.linear_pae = Linear(c_z, PAE_BINS, initializer=zeros, precision=precision)
        self.norm_pde = LayerNorm(c_z, precision)
        self.linear_pde = Linear(c_z, PDE_BINS, initializer=zeros, precision=precision)
        self.norm_plddt = LayerNorm(c_s, precision)
        self.linear_plddt = Linear(
            c_s, ATOMS_PER_TOKEN * PLDDT_BINS, initializer=zeros, precision=precision
        )
        self.norm_resolved = LayerNorm(c_s, precision)
        self.linear_resolved = Linear(
            c_s, ATOMS_PER_TOKEN * 2, initializer=zeros, precision=precision
        )
        self.coordinates = precision.coordinates

    def forward(
        self,
        s_inputs_BRI: Tensor,
        s_BRS: Tensor,
        z_BRNC: Tensor,
        representative_BN3: Tensor,
        token_mask_BN: Tensor,
        mask_BRN: Tensor,
        context: Context,
    ) -> ConfidenceOutput:
        """Return the logits of the structure with representative atoms at these positions (Å)."""
        layout = context.layout.named("heads")
        s_inputs_BRI, s_BRS, z_BRNC = (t.detach() for t in (s_inputs_BRI, s_BRS, z_BRNC))
        column_BNC = layout.gather_tokens(self.linear_j(s_inputs_BRI), axis=1)
        row_BRC = self.linear_i(s_inputs_BRI)
        position_BN3 = representative_BN3.detach().to(self.coordinates)
        local_BR3 = layout.local(position_BN3, axis=1)
        if context.writes_over_pairs():
            # The copy is written over; the trunk's slab serves the next structure too.
            z_BRNC = context.by_rows(
                self._embedded,
                *(z_BRNC, row_BRC, local_BR3, column_BNC, position_BN3),
                axes=(1, 1, 1),
            )
        else:
            z_BRNC = self._embedded(z_BRNC, row_BRC, local_BR3, column_BNC, position_BN3)
        for block in self.blocks:
            s_BRS, z_BRNC = context.run(block, s_BRS, z_BRNC, token_mask_BN, mask_BRN)
        pde_BRNK, pae_BRNK = context.by_rows(self._pairs, z_BRNC)
        plddt_BRE = self.linear_plddt(s_BRS, norm=self.norm_plddt)
        resolved_BRE = self.linear_resolved(s_BRS, norm=self.norm_resolved)
        return ConfidenceOutput(
            plddt_BRE.unflatten(-1, (ATOMS_PER_TOKEN, PLDDT_BINS)),
            pae_BRNK,
            # The error of a distance is symmetric in the two tokens.
            pde_BRNK + layout.rows_to_columns(pde_BRNK),
            resolved_BRE.unflatten(-1, (ATOMS_PER_TOKEN, 2)),
        )

    def _pairs(self, z_BRNC: Tensor) -> tuple[Tensor, Tensor]:
        pde_BRNK = self.linear_pde(z_BRNC, norm=self.norm_pde)
        return pde_BRNK, self.linear_pae(z_BRNC, norm=self.norm_pae)

    def _embedded(
        self,
        z_BRNC: Tensor,
        row_BRC: Tensor,
        local_BR3: Tensor,
        column_BNC: Tensor,
        position_BN3: Tensor,
    ) -> Tensor:
        """Return rows of pairs with the inputs and the distances of the structure added."""
        z_BRNC = z_BRNC + row_BRC.unsqueeze(2) + column_BNC.unsqueeze(1)
        return z_BRNC + self._distances(local_BR3, position_BN3, z_BRNC.dtype)

    def _distances(self, local_BR3: Tensor, position_BN3: Tensor, dtype: torch.dtype) -> Tensor:
        """Embed binned distances, [B, R, N, C]; zero below the first edge."""
        distance_BRN = (local_BR3.unsqueeze(2) - position_BN3.unsqueeze(1)).square().sum(-1).sqrt()
        edges = torch.linspace(
            FIRST_EDGE, LAST_EDGE, DISTANCE_BINS, dtype=self.coordinates, device=local_BR3.device
        )
        bins_BRN = torch.bucketize(distance_BRN, edges, right=True) - 1
        embedded = self.linear_distance.lookup(bins_BRN.clamp(min=0), 0, dtype)
        return embedded * (bins_BRN >= 0).unsqueeze(-1)
