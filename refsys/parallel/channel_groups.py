"""Triangle multiplication on more ranks than there are channels.

P ranks are g groups of Q = P / g ranks, and g = g_i × g_j. The ranks of a group divide the channels
among them; the groups divide the product of each channel, all N × N of its elements, into
g_i × g_j blocks of rows × columns. A rank computes a block of its channels, and the sum over k is
never divided. With one group (1 × 1) and P > c channels, P − c ranks have no channel and compute
nothing.

Outgoing, x[i, j] = Σₖ a[i, k] b[j, k], block (I, J) needs rows I of a and rows J of b; incoming,
x[i, j] = Σₖ a[k, i] b[k, j], columns I of a and columns J of b. So each element of a is sent to g_j
ranks and each of b to g_i, and each element of x comes back from one. With U one rank's share of
the pair representation, N² c e / P bytes, a rank sends in a multiplication::

    forward   (g_i + g_j + 1) U
    backward  (g_i + g_j + 1) U,

less what it keeps, and receives as much. With two multiplications, two swaps of axes and two
biases a pair block sends (2 (g_i + g_j + 1) + 2) U + 2 h (P − 1) U forward. With one group on P > c
ranks a rank that has a channel receives 2 (P/c) U of operands, and sends (P/c) U of its result
beside its own 2 U.

Exactly, in elements of each batch entry: a rank with R of N tokens, its slab S, block I × J and w
of C channels sends, if g_i and g_j are the groups along rows and columns::

    outgoing  forward   N (R C (g_i + g_j) − w (|S ∩ I| + |S ∩ J|)) + w |J| (|I| − |S ∩ I|)
              backward  N w (|I| − |S ∩ I| + |J| − |S ∩ J|) + R N C − w |J| |S ∩ I|
    incoming  forward   R (N C (g_i + g_j) − w (|I| + |J|)) + w |J| (|I| − |S ∩ I|)
              backward  (N − R) w (|I| + |J|) + R N C − w |J| |S ∩ I|.

The gradient of an element of a is the sum of those of its g_j copies, each a sum over a part of the
columns; more than two are added in float32 if the operands are narrower.

Shape suffixes: B batch, R owned tokens, N all tokens, C channels, I rows of the block, J its
columns, c channels of a rank.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from refsys.errors import ArgumentError
from refsys.parallel.collectives import PartSizes, Pending
from refsys.parallel.shares import Interval, overlap, shares, sizes

# Rows and columns of a tensor [B, C, R, N].
Region = tuple[Any, slice, slice]


class BlockGrid(NamedTuple):
    """Groups of ranks that divide the rows and the columns of each channel's product."""

    rows: int = 1
    columns: int = 1

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self.rows * self.columns


class Begin(Protocol):
    """Start of an exchange of parts among all ranks: see `refsys.parallel.collectives`."""

    def __call__(
        self,
        parts: Sequence[Tensor],
        shapes: Sequence[Sequence[int]],
        together: int = 1,
        sizes: PartSizes | None = None,
    ) -> Pending:
        """Return the exchange in flight."""


class Place(NamedTuple):
    """Place of a rank: row and column of its group in the grid, and its number in the group."""

    row: int
    column: int
    member: int


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks of a product and shares of its channels.

    Attributes:
        slabs: Owned tokens of each rank.
        grid: Groups.
        rows: I of each row of the grid.
        columns: J of each column of the grid.
        channels: Channels of each member of a group.
    """

    slabs: tuple[Interval, ...]
    grid: BlockGrid
    rows: tuple[Interval, ...]
    columns: tuple[Interval, ...]
    channels: tuple[Interval, ...]

    @classmethod
    def of(cls, slabs: tuple[Interval, ...], channels: int, grid: BlockGrid) -> "Blocks":
        """Divide channels and blocks among ranks: groups are consecutive ranks, row by row.

        Raises:
            ArgumentError: the groups do not divide the ranks, or there are too few tokens.
        """
        ranks, tokens = len(slabs), slabs[-1][1]
        if ranks % grid.groups:
            raise ArgumentError(
                f"{grid.rows} x {grid.columns} groups do not divide {ranks} ranks; take a number "
                "of groups that does"
            )
        rows, columns = (shares(tokens, count) for count in grid)
        return cls(slabs, grid, rows, columns, shares(channels, ranks // grid.groups))

    @property
    def tokens(self) -> int:
        """N."""
        return self.slabs[-1][1]

    def place(self, rank: int) -> Place:
        """Return the place of a rank."""
        group, member = divmod(rank, len(self.channels))
        return Place(*divmod(group, self.grid.columns), member)

    def block(self, rank: int) -> tuple[Interval, Interval]:
        """Return the rows and the columns of a rank's block."""
        row, column, _member = self.place(rank)
        return self.rows[row], self.columns[column]


class ChannelGroups:
    """Triangle multiplication by groups of ranks, on one rank."""

    def __init__(self, blocks: Blocks, rank: int, begin: Begin, *, chunks: int = 1) -> None:
        """Compute the block of a rank.

        Args:
            blocks: Blocks of all ranks.
            rank: This rank.
            begin: Start of an exchange between all ranks.
            chunks: Parts of the channels that are exchanged one by one.
        """
        self._blocks, self._rank, self._begin = blocks, rank, begin
        self._ranks, self._chunks = range(len(blocks.slabs)), range(chunks)
        self._owned = sizes(blocks.slabs)
        # Channels of each chunk of each member of a group.
        self._widths = [sizes(shares(n, chunks)) for n in sizes(blocks.channels)]

    def multiply(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        a_BRNC: Tensor,
        b_BRNC: Tensor,
        *,
        outgoing: bool,
    ) -> Tensor:
        """Return `function(a, b)`, computed for a block of the result and some channels at a time.

        Args:
            function: Contraction of tensors [B, I, N, c] and [B, J, N, c] if outgoing, else
                [B, N, I, c] and [B, N, J, c], to [B, I, J, c].
            a_BRNC: Owned rows of the first operand.
            b_BRNC: Owned rows of the second one.
            outgoing: See `refsys.parallel.layout.Layout.by_channels`.

        Returns:
            Owned rows of the result, [B, R, N, C].
        """
        rows, columns = self._blocks.grid
        a_parts = self._parts(a_BRNC, self._blocks.rows, columns, outgoing)
        b_parts = self._parts(b_BRNC, self._blocks.columns, rows, outgoing)
        batch = a_BRNC.shape[0]

        def begin(chunk: int) -> Pending:
            parts = []
            for target in self._ranks:
                row, column, member = self._blocks.place(target)
                parts += [a_parts[column, row, member, chunk], b_parts[row, column, member, chunk]]
            return self._to_blocks(parts, chunk, batch, outgoing)

        flight, back = begin(0), []
        for chunk in self._chunks:
            arriving = flight
            if chunk + 1 in self._chunks:
                flight = begin(chunk + 1)
            received = arriving.wait()
            x_BIJc = function(*(_all_tokens(received[k::2]) for k in range(2)))
            back.append(self._to_rows(x_BIJc, chunk))
        returned = [pending.wait() for pending in back]
        parts = [returned[chunk][source] for source in self._ranks for chunk in self._chunks]
        shape = batch, a_BRNC.shape[-1], *a_BRNC.shape[1:3]
        return _Tiles.apply(shape, self._tiles(), *parts).movedim(1, -1)

    def _parts(
        self, x_BRNC: Tensor, axis: Sequence[Interval], copies: int, outgoing: bool
    ) -> dict[tuple[int, ...], Tensor]:
        """Return parts [B, c, R, N] of an operand by copy, interval of tokens, member and chunk."""
        cuts = self._shared(self._rank, axis) if outgoing else sizes(axis)
        widths = [width for of_member in self._widths for width in of_member]
        x_BCRN = x_BRNC.movedim(-1, 1)
        parts = _Copies.apply(x_BCRN, copies, cuts, 2 if outgoing else 3, widths)
        keys = product(range(copies), range(len(axis)), range(len(self._widths)), self._chunks)
        return dict(zip(keys, parts, strict=True))

    def _to_blocks(
        self, parts: Sequence[Tensor], chunk: int, batch: int, outgoing: bool
    ) -> Pending:
        """Start to send both operands' parts to the ranks whose blocks need them."""

        def shapes(source: int, target: int) -> list[tuple[int, int, int, int]]:
            block, width = self._blocks.block(target), self._width(target, chunk)
            if outgoing:
                tokens = self._blocks.tokens
                return [(batch, width, n, tokens) for n in self._shared(source, block)]
            return [(batch, width, self._owned[source], n) for n in sizes(block)]

        received = [shape for source in self._ranks for shape in shapes(source, self._rank)]
        return self._begin(
            parts, received, 2, lambda source, target: sum(map(prod, shapes(source, target)))
        )

    def _to_rows(self, x_BIJc: Tensor, chunk: int) -> Pending:
        """Start to send the rows of this rank's block of the result to their owners."""
        batch = x_BIJc.shape[0]

        def shape(source: int, target: int) -> tuple[int, int, int, int]:
            rows, columns = self._blocks.block(source)
            (shared,), (count,) = self._shared(target, [rows]), sizes([columns])
            return batch, self._width(source, chunk), shared, count

        owned = [shape(self._rank, target)[2] for target in self._ranks]
        return self._begin(
            x_BIJc.movedim(-1, 1).split(owned, dim=2),
            [shape(source, self._rank) for source in self._ranks],
            sizes=lambda source, target: prod(shape(source, target)),
        )

    def _tiles(self) -> list[Region]:
        """Return the region of this rank's rows that each group computes."""
        slab, tiles = self._blocks.slabs[self._rank], []
        for rows in self._blocks.rows:
            start, stop = overlap(slab, rows)
            cut = slice(start - slab[0], stop - slab[0]) if stop > start else slice(0, 0)
            tiles += [(..., cut, slice(*columns)) for columns in self._blocks.columns]
        return tiles

    def _width(self, rank: int, chunk: int) -> int:
        """Return the channels of a chunk of a rank."""
        return self._widths[self._blocks.place(rank).member][chunk]

    def _shared(self, rank: int, axis: Sequence[Interval]) -> list[int]:
        """Return how many of a rank's tokens are in each interval."""
        return sizes([overlap(self._blocks.slabs[rank], interval) for interval in axis])


def _all_tokens(parts: Sequence[Tensor]) -> Tensor:
    """Return an operand of a block with its channels last, in front in memory."""
    return torch.cat(list(parts), dim=2).movedim(1, -1)


class _Copies(torch.autograd.Function):
    """Parts of a tensor [B, C, R, N] by copy, cut of an axis and channels; all cuts of each copy.

    The gradient is the sum over the copies.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, copies: int, cuts: list[int], axis: int, widths: list[int]
    ) -> tuple[Tensor, ...]:
        ctx.copies, ctx.axis, ctx.width, ctx.dtype = copies, axis, len(widths), x.dtype
        return tuple(
            part
            for _copy in range(copies)
            for piece in x.split(cuts, dim=axis)
            for part in piece.split(widths, dim=1)
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        count = len(grads) // ctx.copies
        # A sum of two is rounded once in any case.
        wide = ctx.copies > 2 and ctx.dtype != torch.float64
        total = _Copies._joined(ctx, grads[:count])
        for copy in range(1, ctx.copies):
            if wide and copy == 1:
                total = total.float()
            total.add_(_Copies._joined(ctx, grads[copy * count : (copy + 1) * count]))
        return total.to(ctx.dtype), None, None, None, None

    @staticmethod
    def _joined(ctx: Any, grads: Sequence[Tensor]) -> Tensor:
        """Return the gradient of one copy, in memory of its own."""
        starts = range(0, len(grads), ctx.width)
        pieces = [torch.cat(list(grads[start : start + ctx.width]), dim=1) for start in starts]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=ctx.axis)


class _Tiles(torch.autograd.Function):
    """Tensor [B, C, R, N] of disjoint tiles, each given as parts of its channels in succession."""

    @staticmethod
    def forward(ctx: Any, shape: Sequence[int], tiles: Sequence[Region], *parts: Tensor) -> Tensor:
        count = len(parts) // len(tiles)
        ctx.tiles, ctx.widths = tiles, [part.shape[1] for part in parts[:count]]
        out = parts[0].new_empty(shape)
        for index, tile in enumerate(tiles):
            if out[tile].numel():
                torch.cat(parts[index * count : (index + 1) * count], dim=1, out=out[tile])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        parts = (part for tile in ctx.tiles for part in grad[tile].split(ctx.widths, dim=1))
        return None, None, *parts
