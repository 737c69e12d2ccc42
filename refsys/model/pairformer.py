"""Pairformer (Algorithm 17) and the pair stack that it shares with the MSA module.

Shape suffixes: B batch, R owned tokens, N all tokens, C channels, S single width.
"""

from torch import Tensor, nn

from refsys.config import ModelConfig
from refsys.model.attention_pair_bias import AttentionPairBias
from refsys.model.context import Context
from refsys.model.transition import Transition
from refsys.model.triangle_attention import (
    TriangleAttentionEndingNode,
    TriangleAttentionStartingNode,
)
from refsys.model.triangle_multiplication import (
    TriangleMultiplicationIncoming,
    TriangleMultiplicationOutgoing,
)
from refsys.ops.rounds import equal_blocks
from refsys.parallel.blocks import Block
from refsys.precision import Precision


class PairStack(Block):
    """Five pair updates of a block (lines 2 to 6 of Algorithm 17)."""

    def __init__(
        self, c_z: int, heads: int, dropout: float, factor: int, precision: Precision
    ) -> None:
        super().__init__()
        self.triangle_multiplication_outgoing = TriangleMultiplicationOutgoing(
            c_z, dropout, precision
        )
        self.triangle_multiplication_incoming = TriangleMultiplicationIncoming(
            c_z, dropout, precision
        )
        self.triangle_attention_starting = TriangleAttentionStartingNode(
            c_z, heads, dropout, precision
        )
        self.triangle_attention_ending = TriangleAttentionEndingNode(c_z, heads, dropout, precision)
        self.transition = Transition(c_z, factor, precision)

    @classmethod
    def of_trunk(cls, config: ModelConfig, precision: Precision) -> "PairStack":
        """Return the pair stack of the Pairformer and the MSA module."""
        return cls(
            config.c_z,
            config.pair_heads,
            config.pair_dropout,
            config.transition_factor,
            precision,
        )

    def forward(self, z_BRNC: Tensor, mask_BRN: Tensor, context: Context) -> Tensor:
        """Return the updated pair slab, which may be written over `z_BRNC`."""
        z_BRNC = self.triangle_multiplication_outgoing(z_BRNC, mask_BRN, context)
        z_BRNC = self.triangle_multiplication_incoming(z_BRNC, mask_BRN, context)
        z_BRNC = self.triangle_attention_starting(z_BRNC, mask_BRN, context)
        z_BRNC = self.triangle_attention_ending(z_BRNC, mask_BRN, context)
        return context.update_rows(self.transition, z_BRNC)


class PairformerBlock(Block):
    """One block of Algorithm 17: pair updates, then attention of the single representation."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        self.pair_stack = PairStack.of_trunk(config, precision)
        self.attention_pair_bias = AttentionPairBias(
            config.c_s, config.c_z, config.single_heads, precision
        )
        self.single_transition = Transition(config.c_s, config.transition_factor, precision)

    def forward(
        self,
        s_BRS: Tensor,
        z_BRNC: Tensor,
        token_mask_BN: Tensor,
        mask_BRN: Tensor,
        context: Context,
    ) -> tuple[Tensor, Tensor]:
        """Return the updated single and pair slabs."""
        z_BRNC = self.pair_stack(z_BRNC, mask_BRN, context)
        s_BRS = self.attention_pair_bias(s_BRS, z_BRNC, token_mask_BN, context)
        return self.single_transition(s_BRS), z_BRNC


class PairformerStack(nn.Module):
    """Algorithm 17: `config.pairformer_blocks` blocks."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            PairformerBlock(config, precision) for _ in range(config.pairformer_blocks)
        )

    def forward(
        self,
        s_BRS: Tensor,
        z_BRNC: Tensor,
        token_mask_BN: Tensor,
        mask_BRN: Tensor,
        context: Context,
    ) -> tuple[Tensor, Tensor]:
        """Return the updated single and pair slabs."""
        for block in equal_blocks(self.blocks):
            s_BRS, z_BRNC = context.run(block, s_BRS, z_BRNC, token_mask_BN, mask_BRN)
        return s_BRS, z_BRNC
