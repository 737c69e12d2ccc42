"""Layout of several ranks: each owns a slab of rows of the pair representation.

Every move is an exchange of parts between all ranks (`refsys.parallel.collectives.Exchange`). What
a rank keeps is not copied through it.

Shape suffixes: B batch, R owned tokens, N all tokens, C channels, c this rank's share of channels.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from refsys.errors import ArgumentError
from refsys.parallel.channel_groups import BlockGrid, Blocks, ChannelGroups
from refsys.parallel.collectives import Exchange, PartSizes, Pending
from refsys.parallel.layout import Layout, padded
from refsys.parallel.row_pieces import RowPieces
from refsys.parallel.shares import AtomShares, Interval, overlap, shares, sizes

# Slices of the first axes of a tensor.
Region = tuple[slice, ...]


class RowSlab(Layout):
    """Slab of one of several ranks; any number of tokens on any number of ranks.

    Attributes:
        rank: This rank in its context group.
    """

    def __init__(
        self,
        tokens: int,
        exchange: Exchange,
        atoms: AtomShares | None = None,
        *,
        chunks: int = 1,
        grid_of: Callable[[int], BlockGrid] | None = None,
    ) -> None:
        """Divide tokens and atoms among the ranks of a group.

        Args:
            tokens: N.
            exchange: Exchange between the ranks.
            atoms: Atoms of each rank; None for a model without atoms.
            chunks: Parts into which the channels of an exchange are divided, so that the exchange
                of one overlaps the computation on another.
            grid_of: Groups of ranks for a number of channels in triangle multiplication; None has
                one group, in which ranks beyond the channels have none.

        Raises:
            ArgumentError: there are fewer tokens than ranks.
        """
        self.rank, self.ranks = exchange.rank, exchange.ranks
        if tokens < self.ranks:
            raise ArgumentError(f"{tokens} tokens are too few for {self.ranks} ranks")
        self.tokens = tokens
        self._exchange, self._chunks, self._operator = exchange, chunks, "other"
        self._grid_of = grid_of
        self._slabs = shares(tokens, self.ranks)
        self.start, self.stop = self._slabs[self.rank]
        self._atoms = atoms
        self.atom_start, self.atom_stop = atoms.slabs[self.rank] if atoms else (0, 0)
        self.atom_tokens = atoms.tokens[self.rank] if atoms else (0, 0)
        self.key_tokens = atoms.key_tokens[self.rank] if atoms else (0, 0)

    def named(self, operator: str) -> "RowSlab":
        """See `Layout`."""
        other = copy.copy(self)
        other._operator = operator
        return other

    def gather_tokens(self, x: Tensor, axis: int) -> Tensor:
        """See `Layout`."""
        return self._gather([x], axis, self._slabs)[0]

    def gather_together(self, tensors: Sequence[Tensor], axis: int) -> tuple[Tensor, ...]:
        """See `Layout`."""
        return self._gather(tensors, axis, self._slabs)

    def gather_atoms(self, x: Tensor, axis: int) -> Tensor:
        """See `Layout`."""
        return self._gather([x], axis, self._atom_shares.slabs)[0]

    def rows_to_columns(self, z_BRNC: Tensor) -> Tensor:
        """See `Layout`."""
        rows = sizes(self._slabs)
        batch, owned, _tokens, channels = z_BRNC.shape
        shapes = [(batch, n, owned, channels) for n in rows]
        columns = self._begin(
            z_BRNC.split(rows, dim=2),
            shapes,
            sizes=lambda source, target: batch * rows[source] * rows[target] * channels,
        ).wait()
        return torch.cat(columns, dim=1).transpose(1, 2)

    def columns_to_rows(self, z_BRNC: Tensor) -> Tensor:
        """See `Layout`."""
        return self.rows_to_columns(z_BRNC)

    def by_channels(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        a_BRNC: Tensor,
        b_BRNC: Tensor,
        *,
        outgoing: bool,
    ) -> Tensor:
        """See `Layout`."""
        channels = a_BRNC.shape[-1]
        grid = self._grid_of(channels) if self._grid_of else BlockGrid()
        if grid.groups > 1:
            blocks = Blocks.of(self._slabs, channels, grid)
            groups = ChannelGroups(blocks, self.rank, self._begin, chunks=self._chunks)
            return groups.multiply(function, a_BRNC, b_BRNC, outgoing=outgoing)
        mine = [shares(stop - start, self._chunks) for start, stop in shares(channels, self.ranks)]
        # Chunk by chunk, the channels of each rank.
        widths = [[chunk[t] for chunk in map(sizes, mine)] for t in range(self._chunks)]
        operands = [self._by_rank_and_chunk(x, widths) for x in (a_BRNC, b_BRNC)]

        def begin(chunk: int) -> Pending:
            return self._to_channels([parts[chunk] for parts in operands])

        flight, back = begin(0), []
        for chunk in range(self._chunks):
            arriving = flight
            if chunk + 1 < self._chunks:
                flight = begin(chunk + 1)
            received = arriving.wait()
            x_BNNc = function(*(self._all_rows(received[k::2]) for k in range(2)))
            back.append(self._to_rows(x_BNNc, widths[chunk]))
        returned = [pending.wait() for pending in back]
        by_rank = [part[rank] for rank in range(self.ranks) for part in returned]
        return torch.cat(by_rank, dim=1).movedim(1, -1)

    def gather_in_pieces(
        self, function: Callable[[Tensor], Tensor], x: Tensor, axis: int, size: int
    ) -> Tensor:
        """See `Layout`."""
        return self._in_pieces(size).gather(function, x, axis)

    def swap_in_pieces(self, z_BRNC: Tensor, size: int, out_BRNC: Tensor | None = None) -> Tensor:
        """See `Layout`."""
        return self._in_pieces(size).swap(z_BRNC, out_BRNC)

    def by_channels_in_pieces(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        operands: Callable[[int, int], tuple[Tensor, Tensor]],
        size: int,
        *,
        outgoing: bool,
    ) -> Tensor:
        """See `Layout`."""
        del outgoing
        return self._in_pieces(size).by_channels(function, operands, self._chunks)

    def _in_pieces(self, size: int) -> RowPieces:
        return RowPieces(self._exchange, self._operator, self._slabs, size)

    def streamed(self) -> list[Interval]:
        """See `Layout`; the owned tokens come first."""
        return [*self._slabs[self.rank :], *self._slabs[: self.rank]]

    def stream(self, x: Tensor, axis: int) -> Iterator[Tensor]:
        """See `Layout`; each block is requested while the one before is in use."""
        flight = None
        for hop in range(self.ranks):
            block = x if flight is None else flight[1].wait()[flight[0]]
            if hop + 1 < self.ranks:
                flight = self._request(x, axis, hop + 1)
            yield block

    def local_atoms(self, x: Tensor, axis: int) -> Tensor:
        """See `Layout`."""
        return x.narrow(axis, self.atom_start, self.atom_stop - self.atom_start)

    def halo(self, x: Tensor, axis: int, width: int) -> Tensor:
        """See `Layout`."""
        atoms = self._atom_shares
        wanted = [self._with_halo(slab, width) for slab in atoms.slabs]
        extended = self._intervals(x, axis, atoms.slabs, wanted)
        return padded(extended, axis, *self._beyond(width))

    def local_halo(self, x: Tensor, axis: int, width: int) -> Tensor:
        """See `Layout`."""
        start, stop = self._with_halo((self.atom_start, self.atom_stop), width)
        return padded(x.narrow(axis, start, stop - start), axis, *self._beyond(width))

    def tokens_of_atoms(self, x: Tensor, axis: int) -> Tensor:
        """See `Layout`."""
        return self._intervals(x, axis, self._slabs, self._atom_shares.tokens)

    def sum_to_tokens(self, x: Tensor, axis: int) -> Tensor:
        """See `Layout`."""
        intervals, slab = self._atom_shares.tokens, self._slabs[self.rank]
        mine = intervals[self.rank]
        cuts = _regions(axis, mine, self._slabs)
        shapes = [resized(x, axis, n) for n in sizes([overlap(slab, i) for i in intervals])]
        elements = _shared(x, axis, intervals, self._slabs)
        parts = self._begin(_Cut.apply(x, cuts), shapes, sizes=elements).wait()
        shape = resized(x, axis, self.stop - self.start)
        return _Placed.apply(shape, _regions(axis, slab, intervals), *parts)

    def pairs_of_atoms(self, z_BRNC: Tensor) -> Tensor:
        """See `Layout`."""
        atoms, slab = self._atom_shares, self._slabs[self.rank]
        cuts = [
            (slice(None), _within(slab, overlap(slab, rows)), slice(*columns))
            for rows, columns in zip(atoms.tokens, atoms.key_tokens, strict=True)
        ]
        start, stop = self.key_tokens
        batch, _rows, _columns, channels = z_BRNC.shape
        received = sizes([overlap(self.atom_tokens, owner) for owner in self._slabs])
        shapes = [(batch, count, stop - start, channels) for count in received]

        def elements(source: int, target: int) -> int:
            common = overlap(self._slabs[source], atoms.tokens[target]), atoms.key_tokens[target]
            return batch * channels * prod(sizes(common))

        parts = self._begin(_Cut.apply(z_BRNC, cuts), shapes, sizes=elements).wait()
        return torch.cat(parts, dim=1)

    def sum_ranks(self, x: Tensor) -> Tensor:
        """See `Layout`."""
        return _SumRanks.apply(x, self._sum)

    def _sum(self, x: Tensor) -> Tensor:
        # In the order of the ranks, so that every rank has the same bits.
        count = x.numel()
        parts = self._begin(
            [x] * self.ranks, [x.shape] * self.ranks, sizes=lambda source, target: count
        ).wait()
        return torch.stack(list(parts)).sum(0)

    @property
    def _atom_shares(self) -> AtomShares:
        if self._atoms is None:
            raise ArgumentError("this layout has no atoms")
        return self._atoms

    def _begin(
        self,
        parts: Sequence[Tensor],
        shapes: Sequence[Sequence[int]],
        together: int = 1,
        sizes: PartSizes | None = None,
    ) -> Pending:
        return self._exchange.begin(parts, shapes, self._operator, together=together, sizes=sizes)

    def _gather(
        self, tensors: Sequence[Tensor], axis: int, slabs: Sequence[Interval]
    ) -> tuple[Tensor, ...]:
        count = len(tensors)
        shapes = [resized(x, axis, n) for n in sizes(slabs) for x in tensors]
        # The gradient of an expansion is one sum, which accumulates in float32.
        copies = [x.unsqueeze(0).expand(self.ranks, *x.shape).unbind(0) for x in tensors]
        parts = [copy for of_rank in zip(*copies, strict=True) for copy in of_rank]
        rows, unit = sizes(slabs), sum(prod(resized(x, axis, 1)) for x in tensors)
        received = self._begin(parts, shapes, count, lambda source, target: rows[source] * unit)
        arrived = received.wait()
        return tuple(torch.cat(arrived[k::count], dim=axis) for k in range(count))

    def _intervals(
        self, x: Tensor, axis: int, slabs: Sequence[Interval], wanted: Sequence[Interval]
    ) -> Tensor:
        """Return the interval that this rank wants of an axis, from the owners of its parts."""
        slab, mine = slabs[self.rank], wanted[self.rank]
        parts = _Cut.apply(x, _regions(axis, slab, wanted))
        shapes = [resized(x, axis, n) for n in sizes([overlap(mine, owner) for owner in slabs])]
        elements = _shared(x, axis, slabs, wanted)
        return torch.cat(self._begin(parts, shapes, sizes=elements).wait(), dim=axis)

    def _with_halo(self, slab: Interval, width: int) -> Interval:
        return max(slab[0] - width, 0), min(slab[1] + width, self._atom_shares.atoms)

    def _beyond(self, width: int) -> tuple[int, int]:
        """Return the atoms of the halo before the first atom, and after the last."""
        atoms = self._atom_shares.atoms
        return max(width - self.atom_start, 0), max(self.atom_stop + width - atoms, 0)

    def _by_rank_and_chunk(
        self, x_BRNC: Tensor, widths: Sequence[Sequence[int]]
    ) -> list[list[Tensor]]:
        """Return parts [B, c, R, N] of a tensor: of each chunk, for each rank."""
        order = [widths[t][rank] for rank in range(self.ranks) for t in range(self._chunks)]
        parts = x_BRNC.movedim(-1, 1).split(order, dim=1)
        return [list(parts[t :: self._chunks]) for t in range(self._chunks)]

    def _to_channels(self, operands: Sequence[Sequence[Tensor]]) -> Pending:
        """Start to exchange the parts of several operands together."""
        batch, channels, _rows, tokens = operands[0][self.rank].shape
        shapes = [(batch, channels, n, tokens) for n in sizes(self._slabs) for _ in operands]
        parts = [part for of_rank in zip(*operands, strict=True) for part in of_rank]
        rows, widths = sizes(self._slabs), [part.shape[1] for part in operands[0]]
        unit = batch * tokens * len(operands)
        return self._begin(
            parts,
            shapes,
            len(operands),
            lambda source, target: unit * rows[source] * widths[target],
        )

    def _all_rows(self, parts: Sequence[Tensor]) -> Tensor:
        """Return [B, N, N, c], channels in front in memory."""
        return torch.cat(list(parts), dim=2).movedim(1, -1)

    def _to_rows(self, x_BNNc: Tensor, widths: Sequence[int]) -> Pending:
        parts = x_BNNc.movedim(-1, 1).split(sizes(self._slabs), dim=2)
        batch, _channels, rows, tokens = parts[self.rank].shape
        owned = sizes(self._slabs)
        return self._begin(
            parts,
            [(batch, width, rows, tokens) for width in widths],
            sizes=lambda source, target: batch * widths[source] * owned[target] * tokens,
        )

    def _request(self, x: Tensor, axis: int, hop: int) -> tuple[int, Pending]:
        """Start to receive the block of the rank `hop` further; every rank sends its own back."""
        source, target = (self.rank + hop) % self.ranks, (self.rank - hop) % self.ranks
        nothing = x.detach().narrow(axis, 0, 0)
        parts = [nothing] * self.ranks
        parts[target] = x
        shapes = [tuple(nothing.shape)] * self.ranks
        shapes[source] = resized(x, axis, sizes(self._slabs)[source])
        return source, self._begin(parts, shapes)


def resized(x: Tensor, axis: int, size: int) -> tuple[int, ...]:
    """Return the shape of a tensor with another size of one axis."""
    shape = list(x.shape)
    shape[axis] = size
    return tuple(shape)


def _shared(
    x: Tensor, axis: int, owned: Sequence[Interval], wanted: Sequence[Interval]
) -> PartSizes:
    """Return the elements of what a rank owns of an axis of a tensor and another one wants."""
    unit = prod(resized(x, axis, 1))
    return lambda source, target: unit * sizes([overlap(owned[source], wanted[target])])[0]


def _within(outer: Interval, inner: Interval) -> slice:
    """Return an interval that is empty or within another, relative to the start of the latter."""
    start, stop = inner
    return slice(0, 0) if start == stop else slice(start - outer[0], stop - outer[0])


def _regions(axis: int, slab: Interval, wanted: Sequence[Interval]) -> list[Region]:
    """Return what each interval has in common with a slab, as a region of the slab's tensor."""
    before = (slice(None),) * axis
    return [(*before, _within(slab, overlap(slab, interval))) for interval in wanted]


class _Cut(torch.autograd.Function):
    """Regions of a tensor, which may overlap; the gradient adds them in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, regions: Sequence[Region]) -> tuple[Tensor, ...]:
        ctx.shape, ctx.regions = x.shape, regions
        return tuple(x[region] for region in regions)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _placed(ctx.shape, ctx.regions, grads), None


class _Placed(torch.autograd.Function):
    """Sum of parts at their regions of a tensor: the dual of `_Cut`."""

    @staticmethod
    def forward(
        ctx: Any, shape: Sequence[int], regions: Sequence[Region], *parts: Tensor
    ) -> Tensor:
        ctx.regions = regions
        return _placed(shape, regions, parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(grad[region] for region in ctx.regions)


def _placed(shape: Sequence[int], regions: Sequence[Region], parts: Sequence[Tensor]) -> Tensor:
    out = parts[0].new_zeros(shape)
    for region, part in zip(regions, parts, strict=True):
        if part.numel():
            out[region].add_(part)
    return out


class _SumRanks(torch.autograd.Function):
    """Sum over ranks that every rank uses alike: the gradient is passed on unchanged."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, add: Callable[[Tensor], Tensor]) -> Tensor:
        del ctx
        return add(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        del ctx
        return grad, None
