"""Triangle multiplication by Cannon's algorithm on a square grid of ranks (Fold-CP).

Rank (i, j) of p × p owns tile (i, j) of the pair representation and of both operands. With L and R
for the operands, one of them transposed (outgoing: R = bᵀ, incoming: L = aᵀ), it adds the products
L(i, k) R(k, j) over p steps, k = i + j + step modulo p:

1. Transposition: rank (i, j) exchanges its tile of one operand with rank (j, i).
2. Skew: row i of the grid moves L by i to the left, column j moves R by j upwards.
3. Between two steps, every rank passes L to its left and R upwards, by one rank. These two hops
   overlap the product; the moves of 1 and 2 do not overlap anything.

Forward, a rank sends at most (2 p + 1) U: 1 U in 1, 2 U in 2 and 2 (p − 1) U in 3. Nothing is sent
in 1 on the diagonal, and in 2 nothing of L in row 0 and nothing of R in column 0. The backward pass
has the gradients of both operands as one product each, from the saved tiles and the gradient G,

    outgoing  da = G b,   db = Gᵀ a;    incoming  da = b Gᵀ,   db = a G,

so that one transposition and two products (2 p U each) are at most (4 p + 1) U. The mean over
ranks is 3 (p−1)/p + 2 (p−1) U forward and 5 (p−1)/p + 4 (p−1) U backward. (The duals of the moves
would send (2 p + 1) U, and need the tiles of all p steps saved.)

Exactly, in elements: rank (i, j) with tiles of n_i × n_j positions, where the last k of its p steps
is m = i + j − 1 modulo p, sends, with [·] one if true and zero otherwise,

    forward   B c {n_i n_j ([i ≠ j] +   [i ≠ 0] +   [j ≠ 0]) +   (n_i + n_j)(N − n_m)}
    backward  B c {n_i n_j ([i ≠ j] + 2 [i ≠ 0] + 2 [j ≠ 0]) + 2 (n_i + n_j)(N − n_m)}

If p does not divide N, the sides of tiles differ by one, and nothing is padded. As in Fold-CP, the
partial products are added in the dtype of the operands.

Shape suffixes: B batch, I owned rows, J owned columns, K summed tokens, C channels.
"""

from collections.abc import Iterator
from math import isqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from refsys.errors import ArgumentError
from refsys.parallel.collectives import Exchange, Pending
from refsys.parallel.shares import Interval, shares, sizes


class Grid:
    """Square grid of ranks, each with a tile of the pair representation.

    Attributes:
        tokens: N, the number of tokens.
        side: p, ranks along a side of the grid.
        row: Row of this rank in the grid, i.
        column: Column of this rank in the grid, j.
        rows: First owned row of the pair representation, and one past the last.
        columns: The same of the columns.
    """

    def __init__(
        self, tokens: int, exchange: Exchange, *, operator: str = "triangle_multiplication"
    ) -> None:
        """Arrange the ranks of a group row by row.

        Args:
            tokens: N.
            exchange: Exchange between the ranks.
            operator: Name under which the exchanges are counted.

        Raises:
            ArgumentError: the number of ranks is no square, or there are too few tokens.
        """
        self.side = isqrt(exchange.ranks)
        if self.side**2 != exchange.ranks:
            raise ArgumentError(f"{exchange.ranks} ranks are no square grid; use 4, 9 or 16")
        if tokens < self.side:
            raise ArgumentError(f"{tokens} tokens are too few for a grid of side {self.side}")
        self.tokens = tokens
        self._exchange, self._operator = exchange, operator
        self.row, self.column = divmod(exchange.rank, self.side)
        intervals = shares(tokens, self.side)
        self.rows: Interval = intervals[self.row]
        self.columns: Interval = intervals[self.column]
        self._sizes = sizes(intervals)

    def local(self, z_BNNx: Tensor) -> Tensor:
        """Return the owned tile of a replicated tensor [B, N, N, …]. No exchange."""
        return z_BNNx[:, slice(*self.rows), slice(*self.columns)]

    def multiply(self, a_BIJC: Tensor, b_BIJC: Tensor, *, outgoing: bool) -> Tensor:
        """Return the owned tile of the contraction of triangle multiplication.

        Args:
            a_BIJC: Owned tile of the first operand.
            b_BIJC: Owned tile of the second one, of the same dtype.
            outgoing: Σₖ a[i, k] b[j, k] if True, else Σₖ a[k, i] b[k, j].

        Returns:
            [B, I, J, C] in the dtype of the operands.
        """
        return _Multiplication.apply(a_BIJC, b_BIJC, self, outgoing)

    def transposed(self, x_BIJC: Tensor, direction: str) -> Tensor:
        """Return the owned tile of the transposed tensor, [B, I, J, C], from rank (j, i)."""
        other = self._rank(self.column, self.row)
        shape = self._sizes[self.row], self._sizes[self.column]
        return self._pass(x_BIJC.transpose(1, 2), other, other, shape, direction).wait()

    def product(self, left_BIJC: Tensor, right_BIJC: Tensor, direction: str) -> Tensor:
        """Return the owned tile of Σₖ left[i, k] right[k, j], [B, I, J, C]."""
        partials = self._partials(left_BIJC, right_BIJC, direction)
        total_BIJC = next(partials)
        for partial_BIJC in partials:
            total_BIJC = total_BIJC + partial_BIJC
        return total_BIJC

    def _partials(self, left: Tensor, right: Tensor, direction: str) -> Iterator[Tensor]:
        """Yield the product of each step, [B, I, J, C], the next tiles being in flight."""
        first = self.row + self.column
        flight = (
            self._pass_left(left, self.row, first, direction),
            self._pass_up(right, self.column, first, direction),
        )
        for k in range(first, first + self.side):
            left_BIKC, right_BKJC = (tile.wait() for tile in flight)
            if k + 1 < first + self.side:
                flight = (
                    self._pass_left(left_BIKC, 1, k + 1, direction),
                    self._pass_up(right_BKJC, 1, k + 1, direction),
                )
            yield torch.einsum("bikc,bkjc->bijc", left_BIKC, right_BKJC)

    def _pass_left(self, x: Tensor, hops: int, k: int, direction: str) -> "_TileInFlight":
        """Start to pass a tile `hops` ranks to the left, and to receive tile (i, k)."""
        i, j = self.row, self.column
        shape = self._sizes[i], self._sizes[k % self.side]
        return self._pass(x, self._rank(i, j - hops), self._rank(i, j + hops), shape, direction)

    def _pass_up(self, x: Tensor, hops: int, k: int, direction: str) -> "_TileInFlight":
        """Start to pass a tile `hops` ranks upwards, and to receive tile (k, j)."""
        i, j = self.row, self.column
        shape = self._sizes[k % self.side], self._sizes[j]
        return self._pass(x, self._rank(i - hops, j), self._rank(i + hops, j), shape, direction)

    def _pass(
        self, x: Tensor, target: int, source: int, shape: tuple[int, int], direction: str
    ) -> "_TileInFlight":
        # Every rank takes part in each exchange, if only with nothing.
        nothing = x.narrow(1, 0, 0)
        parts = [nothing] * self._exchange.ranks
        shapes = [tuple(nothing.shape)] * self._exchange.ranks
        parts[target] = x
        shapes[source] = (x.shape[0], *shape, x.shape[-1])
        pending = self._exchange.begin(parts, shapes, self._operator, direction=direction)
        return _TileInFlight(pending, source)

    def _rank(self, row: int, column: int) -> int:
        return row % self.side * self.side + column % self.side


class _TileInFlight(NamedTuple):
    pending: Pending
    source: int

    def wait(self) -> Tensor:
        return self.pending.wait()[self.source]


class _Multiplication(torch.autograd.Function):
    """Cannon's algorithm, and its gradients as products of the saved tiles."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, grid: Grid, outgoing: bool) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.grid, ctx.outgoing = grid, outgoing
        if outgoing:
            return grid.product(a, grid.transposed(b, "forward"), "forward")
        return grid.product(grid.transposed(a, "forward"), b, "forward")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        a, b = ctx.saved_tensors
        grid: Grid = ctx.grid
        transposed = grid.transposed(gradient, "backward")
        if ctx.outgoing:
            da = grid.product(gradient, b, "backward")
            db = grid.product(transposed, a, "backward")
        else:
            da = grid.product(b, transposed, "backward")
            db = grid.product(a, gradient, "backward")
        return da, db, None, None
