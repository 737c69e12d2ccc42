"""The AlphaFold 3 trunk (the cycle of Algorithm 1) with its heads.

Shape suffixes: B batch, R owned tokens, N all tokens, C pair channels, W single width, K bins.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from refsys.batch import Batch
from refsys.config import ModelConfig
from refsys.model.context import Context
from refsys.model.dropout import DropoutMasks
from refsys.model.embedding import (
    AlignmentEmbedding,
    InitialEmbedding,
    RecyclingEmbedder,
    TokenInputEmbedder,
)
from refsys.model.heads import DistogramHead, ResolvedHead
from refsys.model.msa import MSAModule
from refsys.model.pairformer import PairformerStack
from refsys.precision import Precision


class TrunkOutput(NamedTuple):
    """What the trunk gives: this rank's slabs."""

    s_BRW: Tensor
    z_BRNC: Tensor
    distogram_BRNK: Tensor
    resolved_BR2: Tensor


class Trunk(nn.Module):
    """Input embedding, recycling, MSA module, Pairformer and heads."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        self.config = config
        self.precision = precision
        self.token_input_embedder = TokenInputEmbedder(config, precision)
        self.initial_embedding = InitialEmbedding(config, precision)
        self.recycling_embedder = RecyclingEmbedder(config, precision)
        self.alignment_embedding = AlignmentEmbedding(config, precision)
        self.msa = MSAModule(config, precision)
        self.pairformer = PairformerStack(config, precision)
        self.distogram = DistogramHead(config, precision)
        self.resolved = ResolvedHead(config, precision)
        self.dropout_masks = DropoutMasks(self)

    def components(self) -> dict[str, nn.ModuleList]:
        """The parts whose parameters are counted apart."""
        parts: dict[str, list[nn.Module]] = {
            "token_embedder": [self.token_input_embedder],
            "trunk_glue": [
                self.initial_embedding,
                self.recycling_embedder,
                self.alignment_embedding,
            ],
            "msa": [self.msa],
            "pairformer": [self.pairformer],
            "distogram": [self.distogram],
            "resolved": [self.resolved],
        }
        return {name: nn.ModuleList(modules) for name, modules in parts.items()}

    def forward(self, batch: Batch, context: Context, cycles: int = 1) -> TrunkOutput:
        """Runs `cycles` recycling iterations; only the last one is differentiated.

        Args:
            batch: Whole on every rank.
            context: Layout, randomness, checkpointing.
            cycles: N_cycle, at least 1.
        """
        layout = context.layout
        token_mask_BN = batch["token_mask"]
        own_mask_BR = layout.local(token_mask_BN, axis=1)
        mask_BRN = own_mask_BR.unsqueeze(2) & token_mask_BN.unsqueeze(1)
        alignment_mask_BSN = batch["alignment_row_mask"].unsqueeze(2) & token_mask_BN.unsqueeze(1)

        s_inputs_BRI = self.token_input_embedder(batch, layout)
        s_init_BRW, z_init_BRNC = self.initial_embedding(s_inputs_BRI, batch, layout)
        m_init_BSRM = self.alignment_embedding(s_inputs_BRI, batch, layout)
        s_BRW, z_BRNC = torch.zeros_like(s_init_BRW), torch.zeros_like(z_init_BRNC)
        for cycle in range(cycles):
            last = cycle == cycles - 1
            with torch.set_grad_enabled(last and torch.is_grad_enabled()):
                this = replace(context, cycle=cycle)
                this = replace(this, masks=self.dropout_masks(this, z_BRNC.device))
                s_previous_BRW, z_previous_BRNC = self.recycling_embedder(s_BRW, z_BRNC)
                z_BRNC = self.msa(
                    m_init_BSRM,
                    z_init_BRNC + z_previous_BRNC,
                    alignment_mask_BSN,
                    token_mask_BN,
                    mask_BRN,
                    this,
                )
                s_BRW, z_BRNC = self.pairformer(
                    s_init_BRW + s_previous_BRW, z_BRNC, token_mask_BN, mask_BRN, this
                )
        return TrunkOutput(s_BRW, z_BRNC, self.distogram(z_BRNC, context), self.resolved(s_BRW))
