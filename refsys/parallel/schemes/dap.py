"""Dynamic axial parallelism (FastFold, arXiv 2203.00854), with correct gradients.

Triangle multiplication gathers one full operand instead of exchanging channels: outgoing, the owned
rows of a meet all rows of b; incoming, all of a meets the owned columns of b, so that b and the
result swap axes. Attention gathers the whole bias, and the ending node swaps axes.

Bytes that one rank sends per pair block (two multiplications, two attentions) if P divides N,
forward and backward alike, without recomputation:

    2 (P−1) U  operands  +  4 U (P−1)/P  swaps of axes  +  2 h (P−1) U  biases

The dual of a gather is a reduce-scatter. A rank with R rows sends R to each other rank in a gather,
and in its dual to every other rank the rows of that rank, N − R in total. A swap sends R (N − R)
positions in both directions. In elements, of B examples and H heads:

    forward   B [2 (P−1) R N (c + H) + 4 R (N−R) c]
    backward  B [2 (N−R) N (c + H)   + 4 R (N−R) c]

Messages of a block: 8 (P−1) in each direction.

FastFold and MegaFold swap z itself around the incoming multiplication, and here b and the result
are swapped: the volume is the same. They start a gather before the projection of the gate, so as to
overlap it, which does not change the volume either. `chunks` of `RowSlab` has no effect here.

Shape suffixes: B batch, R owned tokens, N all tokens, C channels.
"""

from collections.abc import Callable, Iterator

from torch import Tensor

from refsys.parallel.layout import Layout
from refsys.parallel.row_slab import RowSlab
from refsys.parallel.shares import Interval


class DAP(RowSlab):
    """Row slab whose triangle multiplications and attentions gather a full operand or bias."""

    def by_channels(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        a_BRNC: Tensor,
        b_BRNC: Tensor,
        *,
        outgoing: bool,
    ) -> Tensor:
        """See `Layout`; contracts one gathered operand with the owned part of the other."""
        if outgoing:
            return function(a_BRNC, self.gather_tokens(b_BRNC, axis=1))
        b_BNRC = self.rows_to_columns(b_BRNC).transpose(1, 2)
        x_BNRC = function(self.gather_tokens(a_BRNC, axis=1), b_BNRC)
        return self.columns_to_rows(x_BNRC.transpose(1, 2))

    # Operands are computed in pieces, and then contracted as above.
    by_channels_in_pieces = Layout.by_channels_in_pieces

    def streamed(self) -> list[Interval]:
        """See `Layout`; all tokens are one block."""
        return [(0, self.tokens)]

    def stream(self, x: Tensor, axis: int) -> Iterator[Tensor]:
        """See `Layout`; all tokens are gathered at once."""
        yield self.gather_tokens(x, axis)
