"""Recycling iterations of the trunk (Algorithm 1).

Shape suffixes: B batch, R owned tokens, N all tokens, S MSA rows, C pair channels, W single width,
I width of the input single representation, M MSA width.
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor, nn

from refsys.batch import Batch
from refsys.config import ModelConfig
from refsys.model.context import Context
from refsys.model.dropout import DropoutMasks
from refsys.model.embedding import (
    AlignmentEmbedding,
    InitialEmbedding,
    PairInputs,
    RecyclingEmbedder,
)
from refsys.model.layers import copy_kernel_weights
from refsys.model.msa import MSAModule
from refsys.model.pairformer import PairformerStack
from refsys.ops.rounds import equal_rounds
from refsys.parallel.blocks import Block
from refsys.precision import Precision


class ComponentModel(nn.Module, ABC):
    """Model whose parameters are counted by component."""

    @abstractmethod
    def components(self) -> dict[str, nn.ModuleList]:
        """Return the components by name; each parameter belongs to exactly one."""

    def stacked_blocks(self) -> list[Block]:
        """Return the blocks of all stacks, which have nearly all parameters."""
        stacks = (module for path, module in self.named_modules() if path.endswith(".blocks"))
        blocks = (block for stack in stacks for block in stack.children())
        return [block for block in blocks if isinstance(block, Block)]


class RecyclingTrunk(ComponentModel):
    """Embedding, recycling, MSA module and Pairformer, shared by the models of this package.

    A subclass computes the input single representation, and calls `number_dropout` at the end of
    its constructor.
    """

    dropout_masks: DropoutMasks

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        self.config = config
        self.precision = precision
        self.initial_embedding = InitialEmbedding(config, precision)
        self.recycling_embedder = RecyclingEmbedder(config, precision)
        self.alignment_embedding = AlignmentEmbedding(config, precision)
        self.msa = MSAModule(config, precision)
        self.pairformer = PairformerStack(config, precision)

    def glue(self) -> list[nn.Module]:
        """Return the embedding and recycling modules, which form one component."""
        return [self.initial_embedding, self.recycling_embedder, self.alignment_embedding]

    def number_dropout(self) -> None:
        """Number all dropout sites of the model."""
        self.dropout_masks = DropoutMasks(self)

    def templates(self, z_BRNC: Tensor, batch: Batch, mask_BRN: Tensor, context: Context) -> Tensor:
        """Return the pair slab with the template embedding added; unchanged without templates."""
        del batch, mask_BRN, context
        return z_BRNC

    def recycle(
        self, s_inputs_BRI: Tensor, batch: Batch, context: Context, cycles: int
    ) -> tuple[Tensor, Tensor]:
        """Return the single and pair slabs after `cycles` iterations; only the last has a gradient.

        Each iteration uses its own MSA rows. If the batch has rows for fewer iterations than
        `cycles`, they are used again.
        """
        if context.writes_over_pairs():
            return self._recycle_in_place(s_inputs_BRI, batch, context, cycles)
        layout = context.layout
        token_mask_BN = batch["token_mask"]
        mask_BRN = pair_mask(batch, context)
        s_init_BRW, z_init_BRNC = self.initial_embedding(s_inputs_BRI, batch, layout)
        copy_kernel_weights(self, z_init_BRNC)
        s_BRW, z_BRNC = torch.zeros_like(s_init_BRW), torch.zeros_like(z_init_BRNC)
        last = cycles - 1
        for cycle in chain(equal_rounds(range(last)), (last,)):
            with torch.set_grad_enabled(cycle == last and torch.is_grad_enabled()):
                iteration = replace(context, cycle=cycle)
                iteration = replace(iteration, masks=self.dropout_masks(iteration, z_BRNC.device))
                s_previous_BRW, z_previous_BRNC = self.recycling_embedder(s_BRW, z_BRNC, iteration)
                z_BRNC = self.templates(z_init_BRNC + z_previous_BRNC, batch, mask_BRN, iteration)
                rows = cycle % batch.sizes["cycle"]
                m_BSRM = self.alignment_embedding(s_inputs_BRI, batch, layout, rows)
                row_mask_BS1 = batch["alignment_row_mask"][:, rows].unsqueeze(2)
                msa_mask_BSN = row_mask_BS1 & token_mask_BN.unsqueeze(1)
                z_BRNC = self.msa(m_BSRM, z_BRNC, msa_mask_BSN, token_mask_BN, mask_BRN, iteration)
                s_BRW, z_BRNC = self.pairformer(
                    s_init_BRW + s_previous_BRW, z_BRNC, token_mask_BN, mask_BRN, iteration
                )
        return s_BRW, z_BRNC

    def _recycle_in_place(
        self, s_inputs_BRI: Tensor, batch: Batch, context: Context, cycles: int
    ) -> tuple[Tensor, Tensor]:
        """Return the result of `recycle` with one pair slab in memory between modules.

        The initial pair slab is computed again in each iteration, a few rows at a time.
        """
        embedding, embedder = self.initial_embedding, self.recycling_embedder
        token_mask_BN, mask_BRN = batch["token_mask"], pair_mask(batch, context)
        *of_rows, z_j_BNC = embedding.inputs(s_inputs_BRI, batch, context.layout)
        s_init_BRW = embedding.linear_s(s_inputs_BRI)
        s_BRW = torch.zeros_like(s_init_BRW)
        z_BRNC = s_BRW.new_zeros(*mask_BRN.shape, z_j_BNC.shape[-1])
        copy_kernel_weights(self, z_BRNC)

        def recycled(z_BrNC: Tensor, *inputs: Tensor) -> Tensor:
            return embedding.rows(PairInputs(*inputs)) + embedder.pairs(z_BrNC)

        for cycle in equal_rounds(range(cycles)):
            iteration = replace(context, cycle=cycle)
            s_previous_BRW = embedder.single(s_BRW)
            z_BRNC = iteration.update_rows(recycled, z_BRNC, *of_rows, z_j_BNC, axes=(1,) * 7)
            z_BRNC = self.templates(z_BRNC, batch, mask_BRN, iteration)
            rows = cycle % batch.sizes["cycle"]
            m_BSRM = self.alignment_embedding(s_inputs_BRI, batch, context.layout, rows)
            row_mask_BS1 = batch["alignment_row_mask"][:, rows].unsqueeze(2)
            msa_mask_BSN = row_mask_BS1 & token_mask_BN.unsqueeze(1)
            z_BRNC = self.msa(m_BSRM, z_BRNC, msa_mask_BSN, token_mask_BN, mask_BRN, iteration)
            del m_BSRM, row_mask_BS1, msa_mask_BSN
            s_BRW, z_BRNC = self.pairformer(
                s_init_BRW + s_previous_BRW, z_BRNC, token_mask_BN, mask_BRN, iteration
            )
        return s_BRW, z_BRNC


def pair_mask(batch: Batch, context: Context) -> Tensor:
    """Return [B, R, N] bool, True where neither token is padding."""
    token_mask_BN = batch["token_mask"]
    return context.layout.local(token_mask_BN, 1).unsqueeze(2) & token_mask_BN.unsqueeze(1)
