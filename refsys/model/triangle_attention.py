"""Triangle attention (Algorithms 14 and 15).

The ending node is the starting node applied to the transposed pair tensor, its bias projected
after the transposition.

Shape suffixes: B batch, R owned tokens, N all tokens, C channels, H heads, D head width, Q the
queries of one streamed block of bias rows.
"""

from collections.abc import Iterable, Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from refsys.model.context import Context
from refsys.model.dropout import SharedDropout
from refsys.model.initialization import lecun, stacked, zeros
from refsys.model.layers import LayerNorm, Linear
from refsys.ops.triangle_attention import triangle_attention
from refsys.parallel import Layout
from refsys.precision import Precision


class _TriangleAttention(nn.Module):
    # The axis that shares dropout masks, and whether the other one holds local tokens alone.
    dropout_axis: ClassVar[tuple[int, bool]]

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
        shared_axis, local = self.dropout_axis
        self.dropout = SharedDropout(dropout, c_z, shared_axis=shared_axis, local=local)

    def attend(self, x_BRNC: Tensor, mask_BRN: Tensor, context: Context) -> Tensor:
        """Gated attention within each row of the normalized slab, biased by the rows' own pairs."""
        if not context.chunks.rows:
            return self._attend(x_BRNC, mask_BRN, self._stream_biases(x_BRNC, context.layout))
        # Every chunk reads the bias of all queries: held whole, not streamed again for each.
        bias_BNNH = context.layout.gather_tokens(self.linear_bias(x_BRNC), axis=1)
        return context.by_rows(self._attend_rows, x_BRNC, mask_BRN, bias_BNNH, axes=(1, 1))

    def _stream_biases(self, x_BRNC: Tensor, layout: Layout) -> Iterator[tuple[int, int, Tensor]]:
        yield from layout.stream_rows(self.linear_bias(x_BRNC))

    def _attend_rows(self, x_BRNC: Tensor, mask_BRN: Tensor, bias_BNNH: Tensor) -> Tensor:
        return self._attend(x_BRNC, mask_BRN, [(0, bias_BNNH.shape[1], bias_BNNH)])

    def _attend(
        self, x_BRNC: Tensor, mask_BRN: Tensor, biases: Iterable[tuple[int, int, Tensor]]
    ) -> Tensor:
        q, k, v, gate_BRNC = self.linear_qkvg(x_BRNC).chunk(4, dim=-1)
        q_BRNHD, k_BRNHD, v_BRNHD = (t.unflatten(-1, (self.heads, -1)) for t in (q, k, v))
        blocks = [
            triangle_attention(
                q_BRNHD[:, :, first:last],
                k_BRNHD,
                v_BRNHD,
                bias_BQNH.permute(0, 3, 1, 2),
                mask_BRN,
                softmax=self.softmax,
            )
            for first, last, bias_BQNH in biases
        ]
        out_BRNHD = blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=2)
        return self.linear_out(out_BRNHD.flatten(-2) * torch.sigmoid(gate_BRNC))


class TriangleAttentionStartingNode(_TriangleAttention):
    """Algorithm 14: row i attends along itself, query j to key k, with bias from pair (j, k)."""

    dropout_axis = (-3, False)

    def forward(self, z_BRNC: Tensor, mask_BRN: Tensor, context: Context) -> Tensor:
        """The pair slab with the update added; dropout shared by rows."""
        update_BRNC = self.attend(context.by_rows(self.norm, z_BRNC), mask_BRN, context)
        return self.dropout(z_BRNC, update_BRNC, context)


class TriangleAttentionEndingNode(_TriangleAttention):
    """Algorithm 15: column j attends along itself, query i to key k, with bias from pair (k, i)."""

    dropout_axis = (-2, True)

    def forward(self, z_BRNC: Tensor, mask_BRN: Tensor, context: Context) -> Tensor:
        """The pair slab with the update added; dropout shared by columns."""
        layout = context.layout
        columns_BRNC = layout.rows_to_columns(context.by_rows(self.norm, z_BRNC))
        update_BRNC = layout.columns_to_rows(self.attend(columns_BRNC, mask_BRN, context))
        return self.dropout(z_BRNC, update_BRNC, context)
