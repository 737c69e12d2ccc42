"""MSA module (Algorithms 8, 9 and 10).

The MSA representation is sharded by tokens: every rank holds all MSA rows of its owned tokens.

Shape suffixes: B batch, S MSA rows, R owned tokens, N all tokens, M MSA width, C pair channels,
H heads, D head width, U outer-product width.
"""

import torch
from torch import Tensor, nn

from refsys.config import ModelConfig
from refsys.model.context import Context
from refsys.model.dropout import SharedDropout
from refsys.model.initialization import lecun, stacked, zeros
from refsys.model.layers import KernelModule, LayerNorm, Linear
from refsys.model.pairformer import PairStack
from refsys.model.transition import Transition
from refsys.ops.outer_product_mean import outer_product_mean
from refsys.ops.pair_weighted_averaging import pair_weighted_averaging
from refsys.ops.rounds import equal_blocks
from refsys.parallel import Layout
from refsys.parallel.blocks import Block
from refsys.precision import Precision


class OuterProductMean(KernelModule):
    """Algorithm 9: pair update from the MSA representation."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        width = config.outer_product_width
        self.norm = LayerNorm(config.c_m, precision)
        self.linear_ab = Linear(config.c_m, 2 * width, precision=precision)
        dtype = precision.parameters
        self.weight_out = nn.Parameter(torch.empty(config.c_z, width * width, dtype=dtype))
        self.bias_out = nn.Parameter(torch.empty(config.c_z, dtype=dtype))
        self.initializers = {"weight_out": zeros, "bias_out": zeros}
        self.accumulation = precision.accumulation

    def forward(
        self, m_BSRM: Tensor, mask_BSN: Tensor, context: Context, onto_BRNC: Tensor | None = None
    ) -> Tensor:
        """Return the pair update [B, R, N, C], without the residual.

        Args:
            m_BSRM: MSA representation.
            mask_BSN: False where there is no residue.
            context: Layout and memory savings.
            onto_BRNC: Pair slab that the update is added to, and that is returned, where
                `Context.writes_over_pairs` holds; None returns the update alone.
        """
        layout = context.layout.named("outer_product_mean")
        mask_BSR = layout.local(mask_BSN, axis=2)
        ab = context.by_msa_rows(self._project, m_BSRM, mask_BSR, axes=(1, 1))
        a_BSRU, b_BSRU = ab.chunk(2, dim=-1)
        if not layout.is_unsharded:
            context = context.with_rows(self._rows_at_once(layout))
        b_BSNU = layout.gather_tokens(b_BSRU, axis=2)
        if onto_BRNC is not None:
            return context.update_rows(
                self._add_mean, onto_BRNC, a_BSRU, mask_BSR, b_BSNU, mask_BSN, axes=(1, 2, 2)
            )
        return context.by_rows(self._mean, a_BSRU, mask_BSR, b_BSNU, mask_BSN, axes=(2, 2))

    def _rows_at_once(self, layout: Layout) -> int:
        """Return rows whose products take twice the memory of the owned rows of pairs."""
        c_z, products = self.weight_out.shape
        return max(1, 2 * (layout.stop - layout.start) * c_z // products)

    def _project(self, m_BSRM: Tensor, mask_BSR: Tensor) -> Tensor:
        return self.linear_ab(m_BSRM, norm=self.norm) * mask_BSR.unsqueeze(-1)

    def _add_mean(self, z_BRNC: Tensor, *operands: Tensor) -> Tensor:
        return z_BRNC + self._mean(*operands)

    def _mean(self, a_BSRU: Tensor, mask_BSR: Tensor, b_BSNU: Tensor, mask_BSN: Tensor) -> Tensor:
        return outer_product_mean(
            a_BSRU,
            b_BSNU,
            mask_BSR,
            mask_BSN,
            self.weight_out,
            self.bias_out,
            accumulation=self.accumulation,
        )


class MSAPairWeightedAveraging(nn.Module):
    """Algorithm 10: average over tokens in each MSA row, with weights from the pairs."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        c_m = config.c_m
        self.heads = config.pair_weighted_heads
        self.norm_m = LayerNorm(c_m, precision)
        self.norm_z = LayerNorm(config.c_z, precision)
        self.linear_bias = Linear(config.c_z, self.heads, precision=precision)
        self.linear_vg = Linear(
            c_m, 2 * c_m, initializer=stacked((c_m, lecun), (c_m, zeros)), precision=precision
        )
        self.linear_out = Linear(c_m, c_m, initializer=zeros, precision=precision)
        self.softmax = precision.softmax
        self.dropout = SharedDropout(config.msa_dropout, c_m, local=True)

    def forward(
        self, m_BSRM: Tensor, z_BRNC: Tensor, token_mask_BN: Tensor, context: Context
    ) -> Tensor:
        """Return the MSA representation with the update added; dropout is shared by rows."""
        layout = context.layout.named("pair_weighted_averaging")
        v_BSRM, gate_BSRM = context.by_msa_rows(self._project, m_BSRM).chunk(2, dim=-1)
        update_BSRM = context.by_rows(
            self._average,
            z_BRNC,
            gate_BSRM,
            layout.gather_tokens(v_BSRM, axis=2),
            token_mask_BN,
            axes=(1, 2),
            out=2,
        )
        return self.dropout(m_BSRM, update_BSRM, context)

    def _project(self, m_BSRM: Tensor) -> Tensor:
        return self.linear_vg(m_BSRM, norm=self.norm_m)

    def _average(
        self, z_BRNC: Tensor, gate_BSRM: Tensor, v_BSNM: Tensor, token_mask_BN: Tensor
    ) -> Tensor:
        averaged_BSRHD = pair_weighted_averaging(
            v_BSNM.unflatten(-1, (self.heads, -1)),
            self.linear_bias(z_BRNC, norm=self.norm_z),
            token_mask_BN,
            softmax=self.softmax,
        )
        return self.linear_out(averaged_BSRHD.flatten(-2) * gate_BSRM.sigmoid())


class MSAModuleBlock(Block):
    """One block of Algorithm 8.

    The MSA update of the last block is not used. It is not computed, and its parameters, which the
    released model has, are frozen.
    """

    def __init__(self, config: ModelConfig, precision: Precision, *, last: bool) -> None:
        super().__init__()
        self.outer_product_mean = OuterProductMean(config, precision)
        self.pair_weighted_averaging = MSAPairWeightedAveraging(config, precision)
        self.transition = Transition(config.c_m, config.transition_factor, precision)
        self.pair_stack = PairStack.of_trunk(config, precision)
        self.last = last
        if last:
            self.pair_weighted_averaging.requires_grad_(False)
            self.transition.requires_grad_(False)

    def forward(
        self,
        m_BSRM: Tensor,
        z_BRNC: Tensor,
        msa_mask_BSN: Tensor,
        token_mask_BN: Tensor,
        mask_BRN: Tensor,
        context: Context,
    ) -> tuple[Tensor, Tensor]:
        """Return the updated MSA and pair slabs."""
        if context.writes_over_pairs():
            z_BRNC = self.outer_product_mean(m_BSRM, msa_mask_BSN, context, z_BRNC)
        else:
            z_BRNC = z_BRNC + self.outer_product_mean(m_BSRM, msa_mask_BSN, context)
        if not self.last:
            m_BSRM = self.pair_weighted_averaging(m_BSRM, z_BRNC, token_mask_BN, context)
            m_BSRM = context.by_msa_rows(self.transition, m_BSRM)
        return m_BSRM, self.pair_stack(z_BRNC, mask_BRN, context)


class MSAModule(nn.Module):
    """Algorithm 8: update of the pair representation from the MSA."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            MSAModuleBlock(config, precision, last=number == config.msa_blocks - 1)
            for number in range(config.msa_blocks)
        )

    def forward(
        self,
        m_BSRM: Tensor,
        z_BRNC: Tensor,
        msa_mask_BSN: Tensor,
        token_mask_BN: Tensor,
        mask_BRN: Tensor,
        context: Context,
    ) -> Tensor:
        """Return the updated pair slab."""
        for block in equal_blocks(self.blocks):
            m_BSRM, z_BRNC = context.run(
                block, m_BSRM, z_BRNC, msa_mask_BSN, token_mask_BN, mask_BRN
            )
        return z_BRNC
