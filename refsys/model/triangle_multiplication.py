"""Triangle multiplication (Algorithms 12 and 13).

Shape suffixes: B batch, R owned tokens, N all tokens, C channels.
"""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from refsys.model.context import Context
from refsys.model.dropout import SharedDropout
from refsys.model.initialization import lecun, stacked, zeros
from refsys.model.layers import KernelModule, LayerNorm, Linear
from refsys.ops.triangle_multiplication import StageWeights, contraction, epilogue, projection
from refsys.parallel import Layout
from refsys.precision import Precision


class _TriangleMultiplication(KernelModule):
    outgoing: ClassVar[bool]

    def __init__(self, c_z: int, dropout: float, precision: Precision) -> None:
        super().__init__()
        self.norm_in = LayerNorm(c_z, precision)
        self.norm_out = LayerNorm(c_z, precision)
        self.weight_in = nn.Parameter(torch.empty(5 * c_z, c_z, dtype=precision.parameters))
        self.linear_out = Linear(c_z, c_z, initializer=zeros, precision=precision)
        self.initializers = {"weight_in": stacked((2 * c_z, lecun), (3 * c_z, zeros))}
        self.dropout = SharedDropout(dropout, c_z, local=False)

    def forward(self, z_BRNC: Tensor, mask_BRN: Tensor, context: Context) -> Tensor:
        """Return the pair slab with the update added, which may be written over `z_BRNC`."""
        layout = context.layout.named("triangle_multiplication")
        if context.writes_over_pairs():
            return self._write_over(z_BRNC, mask_BRN, context, layout)
        a_BRNC, b_BRNC, gate_BRNC = context.by_rows(self._project, z_BRNC, mask_BRN, axes=(1, 1))
        x_BRNC = layout.by_channels(
            partial(contraction, outgoing=self.outgoing), a_BRNC, b_BRNC, outgoing=self.outgoing
        )
        return context.by_rows(
            self._finish, x_BRNC, gate_BRNC, z_BRNC, self.dropout.keep(context), axes=(1, 1, 1)
        )

    def _write_over(
        self, z_BRNC: Tensor, mask_BRN: Tensor, context: Context, layout: Layout
    ) -> Tensor:
        """Write the slab with the update added over `z_BRNC`.

        The projection is computed again for the gate, which is as large as the slab.
        """
        rows = context.chunks.rows

        def operands(first: int, last: int) -> tuple[Tensor, Tensor]:
            return self._project(z_BRNC[:, first:last], mask_BRN[:, first:last])[:2]

        x_BRNC = layout.by_channels_in_pieces(
            partial(contraction, outgoing=self.outgoing), operands, rows, outgoing=self.outgoing
        )
        keep_BNC = self.dropout.keep(context)
        return context.update_rows(
            self._gate_and_finish, z_BRNC, mask_BRN, x_BRNC, keep_BNC, axes=(1, 1, 1)
        )

    def _gate_and_finish(
        self, z_BRNC: Tensor, mask_BRN: Tensor, x_BRNC: Tensor, keep_BNC: Tensor | None
    ) -> Tensor:
        # In the layout of a stored gate: elementwise functions of other strides have other bits.
        gate_BRNC = self._project(z_BRNC, mask_BRN)[2].contiguous()
        return self._finish(x_BRNC, gate_BRNC, z_BRNC, keep_BNC)

    def _project(self, z_BRNC: Tensor, mask_BRN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return projection(
            z_BRNC,
            mask_BRN,
            StageWeights(self.norm_in.weight, self.norm_in.bias, self.weight_in),
            statistics=self.norm_in.statistics,
        )

    def _finish(
        self, x_BRNC: Tensor, gate_BRNC: Tensor, z_BRNC: Tensor, keep_BNC: Tensor | None
    ) -> Tensor:
        return epilogue(
            x_BRNC,
            gate_BRNC,
            StageWeights(self.norm_out.weight, self.norm_out.bias, self.linear_out.weight),
            z_BRNC,
            keep_BNC,
            rate=self.dropout.rate,
            statistics=self.norm_out.statistics,
        )


class TriangleMultiplicationOutgoing(_TriangleMultiplication):
    """Algorithm 12: x[i, j] = Σₖ a[i, k] b[j, k]."""

    outgoing = True


class TriangleMultiplicationIncoming(_TriangleMultiplication):
    """Algorithm 13: x[i, j] = Σₖ a[k, i] b[k, j]."""

    outgoing = False
