"""Attention with pair bias (Algorithm 24), without conditioning.

Shape suffixes: B batch, R owned tokens, N all tokens, C channels, S single width, H heads.
"""

import torch
from torch import Tensor, nn

from refsys.model.context import Context
from refsys.model.initialization import lecun, stacked, zeros
from refsys.model.layers import KernelModule, LayerNorm, Linear
from refsys.ops.gated_attention import AttentionPairBiasWeights, attention_pair_bias
from refsys.ops.gated_linear import gated_linear
from refsys.ops.layer_norm_linear import (
    LinearWeights,
    PairBiasWeights,
    layer_norm_linear,
    pair_bias,
)
from refsys.ops.triangle_attention import triangle_attention
from refsys.precision import Precision


class AttentionPairBias(KernelModule):
    """Attention of tokens to all tokens, with a bias from the rows of the pair representation."""

    def __init__(self, c_s: int, c_z: int, heads: int, precision: Precision) -> None:
        super().__init__()
        self.heads = heads
        self.norm_s = LayerNorm(c_s, precision)
        self.norm_z = LayerNorm(c_z, precision)
        self.linear_bias = Linear(c_z, heads, precision=precision)
        self.linear_qkvg = Linear(
            c_s, 4 * c_s, initializer=stacked((3 * c_s, lecun), (c_s, zeros)), precision=precision
        )
        self.query_bias = nn.Parameter(torch.empty(c_s, dtype=precision.parameters))
        self.initializers = {"query_bias": zeros}
        self.linear_out = Linear(c_s, c_s, initializer=zeros, precision=precision)
        self.softmax = precision.softmax

    def forward(
        self, s_BRS: Tensor, z_BRNC: Tensor, token_mask_BN: Tensor, context: Context
    ) -> Tensor:
        """Return the single representation of the owned tokens with the update added."""
        if context.layout.is_unsharded and not context.splits_rows(z_BRNC.shape[1]):
            return attention_pair_bias(
                s_BRS,
                z_BRNC,
                token_mask_BN,
                AttentionPairBiasWeights(
                    self.norm_s.weight,
                    self.norm_s.bias,
                    self.linear_qkvg.weight,
                    self.query_bias,
                    self.norm_z.weight,
                    self.norm_z.bias,
                    self.linear_bias.weight,
                    self.linear_out.weight,
                ),
                softmax=self.softmax,
                statistics=self.norm_s.statistics,
            )
        layout = context.layout.named("attention_pair_bias")
        row = s_BRS.unsqueeze(1)
        q, k, v, gate = layer_norm_linear(
            row,
            LinearWeights(
                self.norm_s.weight, self.norm_s.bias, self.linear_qkvg.weight, self.query_bias
            ),
            statistics=self.norm_s.statistics,
        ).chunk(4, dim=-1)
        out = context.by_rows(
            self._attend,
            q.squeeze(1),
            z_BRNC,
            *layout.gather_together((k, v), axis=2),
            token_mask_BN.unsqueeze(1),
            axes=(1, 1),
        )
        return gated_linear(out.unsqueeze(1), gate, self.linear_out.weight, row).squeeze(1)

    def _attend(
        self, q_BRS: Tensor, z_BRNC: Tensor, k_B1NS: Tensor, v_B1NS: Tensor, mask_B1N: Tensor
    ) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in (q_BRS.unsqueeze(1), k_B1NS, v_B1NS))
        bias_BHRN = pair_bias(
            z_BRNC,
            PairBiasWeights(self.norm_z.weight, self.norm_z.bias, self.linear_bias.weight),
            statistics=self.norm_z.statistics,
        )
        out = triangle_attention(q, k, v, bias_BHRN, mask_B1N, softmax=self.softmax)
        return out.squeeze(1).flatten(-2)
