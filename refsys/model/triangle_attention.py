"""Triangle attention (Algorithms 14 and 15).

The ending node is the starting node applied to the transposed pair tensor; its bias is projected
after the transposition.

Shape suffixes: B batch, R owned tokens, N all tokens, C channels, H heads, D head width, Q the
queries of one streamed block of bias rows.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from refsys.model.context import Context
from refsys.model.dropout import SharedDropout
from refsys.model.initialization import lecun, stacked, zeros
from refsys.model.layers import KernelModule, LayerNorm, Linear
from refsys.ops.gated_attention import TriangleAttentionWeights, gated_triangle_attention
from refsys.ops.gated_linear import gated_linear
from refsys.ops.layer_norm_linear import (
    AttentionProjectionWeights,
    LinearWeights,
    PairBiasWeights,
    attention_projection,
    layer_norm_linear,
    pair_bias,
)
from refsys.ops.triangle_attention import triangle_attention
from refsys.precision import Precision

# The bias of all queries is gathered, for fewer exchanges and kernels, if it has at most one
# element to so many of a rank's slab. Otherwise it is streamed.
_SMALL = 4


class _TriangleAttention(KernelModule):
    def __init__(self, c_z: int, heads: int, dropout: float, precision: Precision) -> None:
        super().__init__()
        self.heads = heads
        self.norm = LayerNorm(c_z, precision)
        self.linear_bias = Linear(c_z, heads, precision=precision)
        self.linear_qkvg = Linear(
            c_z,
            4 * c_z,
            initializer=stacked((3 * c_z, lecun), (c_z, zeros)),
            precision=precision,
        )
        self.linear_out = Linear(c_z, c_z, initializer=zeros, precision=precision)
        self.softmax = precision.softmax
        self.dropout = SharedDropout(dropout, c_z, local=False)

    def update(self, z_BRNC: Tensor, mask_BRN: Tensor, context: Context) -> Tensor:
        """Return the slab with gated attention within each row added, biased by the pairs.

        It may be written over `z_BRNC`.
        """
        layout = context.layout.named("triangle_attention")
        keep_BNC, rate = self.dropout.keep(context), self.dropout.rate
        if context.layout.is_unsharded and not context.splits_rows(z_BRNC.shape[1]):
            return gated_triangle_attention(
                z_BRNC,
                mask_BRN,
                TriangleAttentionWeights(
                    *self._norm,
                    self.linear_qkvg.weight,
                    self.linear_bias.weight,
                    self.linear_out.weight,
                ),
                keep_BNC,
                rate=rate,
                softmax=self.softmax,
                statistics=self.norm.statistics,
            )
        if context.chunks.rows:
            # Every chunk reads the bias of all queries: gather it once instead of streaming it.
            if context.writes_over_pairs():
                bias_BHNN = layout.gather_in_pieces(self._bias, z_BRNC, 2, context.chunks.rows)
            else:
                bias_BHRN = context.by_rows(self._bias, z_BRNC, out=2)
                bias_BHNN = layout.gather_tokens(bias_BHRN, axis=2)
            return context.update_rows(
                self._update_rows, z_BRNC, mask_BRN, bias_BHNN, keep_BNC, axes=(1, 1)
            )
        qkvg_BRNE, bias_BHRN = attention_projection(
            z_BRNC,
            AttentionProjectionWeights(
                *self._norm, self.linear_qkvg.weight, self.linear_bias.weight
            ),
            statistics=self.norm.statistics,
        )
        biases: Iterable[Tensor]
        if _SMALL * layout.ranks * self.heads <= z_BRNC.shape[-1]:
            intervals, biases = [(0, layout.tokens)], [layout.gather_tokens(bias_BHRN, axis=2)]
        else:
            intervals, biases = layout.streamed(), layout.stream(bias_BHRN, axis=2)
        return self._finish(z_BRNC, qkvg_BRNE, mask_BRN, intervals, biases, keep_BNC)

    @property
    def _norm(self) -> tuple[Tensor, Tensor]:
        return self.norm.weight, self.norm.bias

    def _bias(self, z_BRNC: Tensor) -> Tensor:
        weights = PairBiasWeights(*self._norm, self.linear_bias.weight)
        return pair_bias(z_BRNC, weights, statistics=self.norm.statistics)

    def _update_rows(
        self, z_BRNC: Tensor, mask_BRN: Tensor, bias_BHNN: Tensor, keep_BNC: Tensor | None
    ) -> Tensor:
        weights = LinearWeights(*self._norm, self.linear_qkvg.weight)
        qkvg_BRNE = layer_norm_linear(z_BRNC, weights, statistics=self.norm.statistics)
        blocks = [(0, bias_BHNN.shape[2])], [bias_BHNN]
        return self._finish(z_BRNC, qkvg_BRNE, mask_BRN, *blocks, keep_BNC)

    def _finish(
        self,
        z_BRNC: Tensor,
        qkvg_BRNE: Tensor,
        mask_BRN: Tensor,
        intervals: list[tuple[int, int]],
        biases_BHQN: Iterable[Tensor],
        keep_BNC: Tensor | None,
    ) -> Tensor:
        """Compute attention in blocks of queries, then the gate, the output and the residual."""
        *qkv, gate_BRNC = qkvg_BRNE.chunk(4, dim=-1)
        q_BRNHD, k_BRNHD, v_BRNHD = (t.unflatten(-1, (self.heads, -1)) for t in qkv)
        ascending = sorted(intervals)
        if len(ascending) == 1:
            queries = (q_BRNHD[:, :, slice(*ascending[0])],)
        else:
            # Not slices: the gradient of all blocks is then one concatenation.
            queries = q_BRNHD.split([last - first for first, last in ascending], dim=2)
        q_BRQHD = dict(zip(ascending, queries, strict=True))
        blocks = {
            interval: triangle_attention(
                q_BRQHD[interval], k_BRNHD, v_BRNHD, bias_BHQN, mask_BRN, softmax=self.softmax
            )
            for interval, bias_BHQN in zip(intervals, biases_BHQN, strict=True)
        }
        ordered = [blocks[interval] for interval in ascending]
        out_BRNHD = ordered[0] if len(ordered) == 1 else torch.cat(ordered, dim=2)
        return gated_linear(
            out_BRNHD.flatten(-2),
            gate_BRNC,
            self.linear_out.weight,
            z_BRNC,
            keep_BNC,
            rate=self.dropout.rate,
        )


class TriangleAttentionStartingNode(_TriangleAttention):
    """Algorithm 14: attention within row i, from query j to key k, with bias from pair (j, k)."""

    def forward(self, z_BRNC: Tensor, mask_BRN: Tensor, context: Context) -> Tensor:
        """Return the pair slab with the update added; dropout is shared by rows."""
        return self.update(z_BRNC, mask_BRN, context)


class TriangleAttentionEndingNode(_TriangleAttention):
    """Algorithm 15: attention within column j, query i to key k, with bias from pair (k, i)."""

    def forward(self, z_BRNC: Tensor, mask_BRN: Tensor, context: Context) -> Tensor:
        """Return the pair slab with the update added; dropout is shared by columns."""
        layout = context.layout.named("triangle_attention")
        if context.writes_over_pairs():
            rows = context.chunks.rows
            columns_BRNC = layout.swap_in_pieces(z_BRNC, rows)
            columns_BRNC = self.update(columns_BRNC, mask_BRN, context)
            return layout.swap_in_pieces(columns_BRNC, rows, z_BRNC)
        columns_BRNC = layout.rows_to_columns(z_BRNC)
        return layout.columns_to_rows(self.update(columns_BRNC, mask_BRN, context))
