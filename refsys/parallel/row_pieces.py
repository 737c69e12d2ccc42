"""Moves of a row slab in pieces of rows, without gradients.

A move at once holds a packed copy of what is sent and a buffer of what is received. In pieces it
holds these for a few rows at a time beside its result, which matters where the pair representation
fills a device. Every rank divides its slab into equally many pieces, so that all ranks start the
same exchanges.

Shape suffixes: B batch, R owned tokens, N all tokens, C channels, c this rank's share of channels.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from refsys.parallel.collectives import Exchange, Packed, Pending
from refsys.parallel.shares import Interval, shares, sizes

# Operands of a contraction from the first and one past the last of some owned rows.
Operands = Callable[[int, int], tuple[Tensor, Tensor]]


class _Run(NamedTuple):
    """Successive ranks that own equally many channels.

    Attributes:
        ranks: Number of ranks.
        widths: Channels of each of them, by chunk.
        column: Their first channel.
        before: Channels of other ranks before them, by chunk; None for this rank itself.
    """

    ranks: int
    widths: tuple[int, ...]
    column: int
    before: tuple[int, ...] | None


class RowPieces:
    """Moves in pieces of the slab of one rank.

    Attributes:
        rank: This rank in its context group.
        ranks: Number of ranks in the group.
    """

    def __init__(
        self, exchange: Exchange, operator: str, slabs: Sequence[Interval], size: int
    ) -> None:
        """Divide the slabs.

        Args:
            exchange: Exchange between the ranks.
            operator: Name under which the exchanges are counted.
            slabs: Tokens of each rank.
            size: Rows of a piece, about.
        """
        self.rank, self.ranks = exchange.rank, exchange.ranks
        self._exchange, self._operator, self._slabs = exchange, operator, slabs
        least, most = min(sizes(slabs)), max(sizes(slabs))
        self._even = least == most
        count = min(-(-most // size), least)
        by_rank = [
            [(first + start, first + stop) for start, stop in shares(last - first, count)]
            for first, last in slabs
        ]
        # Tokens of each rank, by piece.
        self._pieces: list[list[Interval]] = [list(piece) for piece in zip(*by_rank, strict=True)]

    def gather(self, function: Callable[[Tensor], Tensor], x: Tensor, axis: int) -> Tensor:
        """Return the results of all ranks for their rows, in the order of the tokens.

        Args:
            function: Function of some of the owned rows.
            x: Tensor whose axis 1 has the owned rows.
            axis: Axis of the rows in the results.
        """
        out: Tensor | None = None
        for piece in self._pieces:
            part = function(self._own(x, piece))
            shapes = [_resized(part, axis, count) for count in sizes(piece)]
            copies = part.unsqueeze(0).expand(self.ranks - 1, *part.shape).reshape(-1)
            blocks = self._begin(Packed([part] * self.ranks, copies), shapes).wait()
            if out is None:
                out = part.new_empty(_resized(part, axis, self._slabs[-1][1]))
            self._write(out, axis, piece, blocks)
        assert out is not None, "a slab has at least one piece"
        return out

    def swap(self, x_BRNC: Tensor, out_BRNC: Tensor | None) -> Tensor:
        """Write the owned columns, as rows of the transposed tensor, to `out` or a new tensor."""
        batch, owned, _tokens, channels = x_BRNC.shape
        out = x_BRNC.new_empty(x_BRNC.shape) if out_BRNC is None else out_BRNC
        for piece in self._pieces:
            parts = self._own(x_BRNC, piece).split(sizes(self._slabs), dim=2)
            shapes = [(batch, count, owned, channels) for count in sizes(piece)]
            blocks = self._begin(parts, shapes).wait()
            self._write(out.transpose(1, 2), 1, piece, blocks)
        return out

    def by_channels(
        self, function: Callable[[Tensor, Tensor], Tensor], operands: Operands, chunks: int
    ) -> Tensor:
        """Return the owned rows of `function` of both operands; see `Layout.by_channels`.

        The operands are computed row by row and written to the buffers that are sent, so that
        neither is ever in memory as a whole.
        """
        packed, widths, shape = self._packed(operands, chunks)
        batch, rows, tokens = shape

        def begin(chunk: int) -> Pending:
            parts, packed[chunk] = packed[chunk], None
            assert parts is not None, "a chunk is sent once"
            width = widths[chunk][self.rank]
            shapes = [(batch, width, n, tokens) for n in sizes(self._slabs) for _ in range(2)]
            return self._begin(parts, shapes, together=2)

        flight, back = begin(0), []
        for chunk in range(chunks):
            arriving = flight
            if chunk + 1 < chunks:
                flight = begin(chunk + 1)
            received = arriving.wait()
            pair = [torch.cat(received[k::2], dim=2).movedim(1, -1) for k in range(2)]
            del received
            x_BNNc = function(*pair)
            del pair
            parts = x_BNNc.movedim(-1, 1).split(sizes(self._slabs), dim=2)
            shapes = [(batch, width, rows, tokens) for width in widths[chunk]]
            back.append(self._begin(parts, shapes))
            del x_BNNc, parts
        returned = [pending.wait() for pending in back]
        by_rank = [part[rank] for rank in range(self.ranks) for part in returned]
        return torch.cat(by_rank, dim=1).movedim(1, -1)

    def _packed(
        self, operands: Operands, chunks: int
    ) -> tuple[list[Packed | None], list[list[int]], tuple[int, int, int]]:
        """Return what is sent, by chunk; the channels of each rank; batch, rows and tokens."""
        packed: list[Packed] = []
        widths: list[list[int]] = []
        runs: list[_Run] = []
        shape = (0, 0, 0)
        start, stop = self._slabs[self.rank]
        for piece in self._pieces:
            first, last = (token - start for token in piece[self.rank])
            pair = operands(first, last)
            if not packed:
                batch, _rows, tokens, channels = pair[0].shape
                shape = batch, stop - start, tokens
                owned = [shares(b - a, chunks) for a, b in shares(channels, self.ranks)]
                widths = [[share[chunk] for share in map(sizes, owned)] for chunk in range(chunks)]
                packed = [self._buffers(pair[0], shape, each) for each in widths]
                runs = list(self._runs(widths))
            targets, sources = [], []
            for k, operand in enumerate(pair):
                planar = operand.movedim(-1, 1)
                for run in runs:
                    columns = planar.narrow(1, run.column, run.ranks * sum(run.widths))
                    by_rank = (
                        columns.unflatten(1, (run.ranks, -1)).movedim(1, 0).split(run.widths, 2)
                    )
                    for chunk, source in enumerate(by_rank):
                        if run.widths[chunk]:
                            target = self._region(packed[chunk], run, chunk, shape, k)
                            targets.append(target.narrow(3, first, last - first))
                            sources.append(source)
            torch._foreach_copy_(targets, sources)
        return list(packed), widths, shape

    def _runs(self, widths: Sequence[Sequence[int]]) -> Iterator[_Run]:
        """Yield successive ranks of equally many channels in each chunk; this one by itself."""
        by_rank = list(zip(*widths, strict=True))
        column, before = 0, [0] * len(widths)

        def key(rank: int) -> tuple[bool, tuple[int, ...]]:
            return rank == self.rank, by_rank[rank]

        for (is_own, each), group in groupby(range(self.ranks), key):
            count = len(list(group))
            if any(each):
                yield _Run(count, each, column, None if is_own else tuple(before))
            column += count * sum(each)
            if not is_own:
                before = [b + count * w for b, w in zip(before, each, strict=True)]

    def _region(
        self, packed: Packed, run: _Run, chunk: int, shape: tuple[int, int, int], k: int
    ) -> Tensor:
        """Return operand k of the parts for the ranks of a run, [ranks, B, c, R, N]."""
        batch, rows, tokens = shape
        if run.before is None:
            return packed[2 * self.rank + k].unsqueeze(0)
        width, plane = run.widths[chunk], 2 * batch * rows * tokens
        first, count = run.before[chunk] * plane, run.ranks * width * plane
        parts = packed.buffer.narrow(0, first, count)
        return parts.view(run.ranks, 2, batch, width, rows, tokens)[:, k]

    def _buffers(self, like: Tensor, shape: tuple[int, int, int], widths: list[int]) -> Packed:
        """Return empty parts [B, c, R, N] of both operands, for each rank."""
        batch, rows, tokens = shape
        own = widths[self.rank]
        plane = batch * rows * tokens
        others = like.new_empty(2 * plane * (sum(widths) - own))
        counts = [0 if rank == self.rank else w for rank, w in enumerate(widths)]
        pieces = others.split([plane * count for count in counts for _ in range(2)])
        parts = [
            like.new_empty(batch, own, rows, tokens)
            if index // 2 == self.rank
            else piece.view(batch, counts[index // 2], rows, tokens)
            for index, piece in enumerate(pieces)
        ]
        return Packed(parts, others)

    def _begin(
        self, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], together: int = 1
    ) -> Pending:
        return self._exchange.begin(parts, shapes, self._operator, together=together)

    def _own(self, x: Tensor, piece: Sequence[Interval]) -> Tensor:
        first, last = piece[self.rank]
        return x.narrow(1, first - self._slabs[self.rank][0], last - first)

    def _write(
        self, out: Tensor, axis: int, piece: Sequence[Interval], blocks: Sequence[Tensor]
    ) -> None:
        """Write the block of each rank to the rows of its piece."""
        if not self._even:
            targets = [out.narrow(axis, first, last - first) for first, last in piece]
            torch._foreach_copy_(targets, list(blocks))
            return
        first, last = piece[0]
        rows = out.unflatten(axis, (self.ranks, -1)).narrow(axis + 1, first, last - first)
        rows.copy_(torch.cat(list(blocks), dim=axis).unflatten(axis, (self.ranks, -1)))


def _resized(x: Tensor, axis: int, size: int) -> tuple[int, ...]:
    shape = list(x.shape)
    shape[axis] = size
    return tuple(shape)
