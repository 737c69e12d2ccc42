"""Collective operations between ranks, counted in a ledger.

All collectives of the project that move tensors are called through this module, so that the
communication of a step is known exactly. Two kinds suffice: a sum over all ranks, and an exchange
in which each rank sends a part to each other one. Gathers, reductions, swaps of axes and halos are
exchanges of particular parts; the gradient of an exchange is the exchange in the other direction.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import groupby
from math import prod
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from refsys.parallel import monitor
from refsys.parallel.ledger import LEDGER, Ledger, Traffic, TrafficKey

# Number of elements that a rank sends to another one, by both.
PartSizes = Callable[[int, int], int]


def traffic() -> Traffic:
    """Return the current reading of the counters of this process."""
    return LEDGER.total()


class Flight:
    """Collective operation in flight."""

    def __init__(
        self,
        work: dist.Work | None,
        key: TrafficKey,
        group: dist.ProcessGroup | None,
        *,
        on_host: bool,
        ledger: Ledger = LEDGER,
    ) -> None:
        """Note that the operation has begun.

        Args:
            work: Handle of the backend; None if the operation is complete.
            key: Origin under which the operation is counted.
            group: Ranks that take part; all if None.
            on_host: Whether the host itself waits in `wait`, not the device alone.
            ledger: Counters.
        """
        self._work, self._key, self._ledger = work, key, ledger
        self._monitor = monitor.current()
        if self._monitor is not None:
            self._operation = self._monitor.begin(key, group, None if on_host else work)

    def wait(self) -> None:
        """Wait for the operation; what the device does next waits for it in any case.

        Raises:
            RankError: the operation failed or exceeded the timeout; the error names the ranks that
                are missing.
        """
        if self._work is None:
            return
        start = perf_counter()
        try:
            self._work.wait()
        except RuntimeError as error:
            if self._monitor is None:
                raise
            raise self._monitor.failure(self._operation, error) from error
        self._ledger.wait(self._key, perf_counter() - start)


def all_reduce_begin(tensor: Tensor, group: dist.ProcessGroup | None = None) -> Flight:
    """Start an in-place sum of a tensor over the ranks.

    Args:
        tensor: Any shape; the same shape and dtype on every rank.
        group: Ranks that take part; all if None.

    Returns:
        Handle of the operation; the sum is complete once `wait` on it has returned.
    """
    nbytes = tensor.numel() * tensor.element_size()
    key = LEDGER.count("gradients", "backward", "all_reduce", nbytes)
    work = dist.all_reduce(tensor, group=group, async_op=True)
    return Flight(work, key, group, on_host=tensor.device.type == "cpu")


class Pending(ABC):
    """An exchange in flight."""

    @abstractmethod
    def wait(self) -> tuple[Tensor, ...]:
        """Return the parts that were received, in the order of their shapes; call it once."""


class Packed(tuple[Tensor, ...]):
    """Parts of an exchange without gradients that lie in the buffer that is sent.

    Attributes:
        buffer: Elements of the parts for the other ranks, in the order of the ranks.
    """

    buffer: Tensor

    def __new__(cls, parts: Sequence[Tensor], buffer: Tensor) -> "Packed":
        """Return the parts for all ranks; that for this one lies elsewhere."""
        packed = super().__new__(cls, parts)
        packed.buffer = buffer
        return packed


class Exchange(ABC):
    """Exchange of tensors among the ranks of a group.

    Attributes:
        rank: This rank in the group, from 0.
        ranks: Number of ranks in the group.
    """

    rank: int
    ranks: int

    @abstractmethod
    def begin(
        self,
        parts: Sequence[Tensor],
        shapes: Sequence[Sequence[int]],
        operator: str,
        *,
        direction: str = "forward",
        together: int = 1,
        sizes: PartSizes | None = None,
    ) -> Pending:
        """Start to send a part to each rank.

        Args:
            parts: Part for each rank, all of one dtype; empty ones are not sent. The one for this
                rank is returned as it is. `Packed` ones are sent without a copy.
            shapes: Shape of the part that each rank sends to this one.
            operator: Name under which the exchange is counted.
            together: Number of tensors that are exchanged together: so many parts in succession,
                and shapes, are of each rank.
            direction: ``forward``, or ``backward`` where the backward pass of an operator of its
                own starts the exchange. That of the gradients is counted as ``backward``.
            sizes: Elements that any rank sends to any other one, the same on every rank, so that
                parts may be relayed; None has them sent directly.

        Returns:
            Handle whose `wait` returns the parts from all ranks. Gradients flow back through the
            exchange in the other direction.
        """


class Arrived(Pending):
    """Parts that are here already."""

    def __init__(self, parts: Sequence[Tensor]) -> None:
        self._parts = tuple(parts)

    def wait(self) -> tuple[Tensor, ...]:
        """See `Pending`."""
        return self._parts


class GroupExchange(Exchange):
    """Exchange by `torch.distributed`."""

    def __init__(self, group: dist.ProcessGroup | None = None, ledger: Ledger = LEDGER) -> None:
        """Use a group that exists.

        Args:
            group: Ranks that take part; all if None.
            ledger: Counters.
        """
        self.group = group
        self.ledger = ledger
        self.rank = dist.get_rank(group)
        self.ranks = dist.get_world_size(group)

    def begin(
        self,
        parts: Sequence[Tensor],
        shapes: Sequence[Sequence[int]],
        operator: str,
        *,
        direction: str = "forward",
        together: int = 1,
        sizes: PartSizes | None = None,
    ) -> Pending:
        """See `Exchange`."""
        if self.ranks == 1:
            return Arrived(parts)
        return _GroupPending(self, parts, shapes, operator, direction, together, sizes)

    def transfer(
        self,
        sent: Sequence[Sequence[int]],
        received: Sequence[Sequence[int]],
        operator: str,
        direction: str,
        together: int,
        sizes: PartSizes | None,
    ) -> "Transfer":
        """Return the transfer of an exchange whose parts have these shapes."""
        del sizes
        return Transfer(self, sent, received, operator, direction, together)


class _GroupPending(Pending):
    def __init__(
        self,
        exchange: GroupExchange,
        parts: Sequence[Tensor],
        shapes: Sequence[Sequence[int]],
        operator: str,
        direction: str,
        together: int,
        sizes: PartSizes | None,
    ) -> None:
        own = range(exchange.rank * together, (exchange.rank + 1) * together)
        self._own = {index: parts[index] for index in own}
        others = [part for index, part in enumerate(parts) if index not in own]
        self._shapes = [tuple(shape) for shape in shapes]
        received = [(0,) if index in own else s for index, s in enumerate(self._shapes)]
        sent = [(0,) if index in own else part.shape for index, part in enumerate(parts)]
        self._transfer = exchange.transfer(sent, received, operator, direction, together, sizes)
        self._transfer.buffer = parts.buffer if isinstance(parts, Packed) else None
        # A rank that sends nothing receives no gradient, and still takes part in the backward pass.
        sending = [part for part in others if part.numel()] or others[:1]
        self._token = _Launch.apply(self._transfer, *sending)

    def wait(self) -> tuple[Tensor, ...]:
        """See `Pending`."""
        pieces: Any = iter(_Arrive.apply(self._transfer, self._token))
        empty: dict[tuple[int, ...], Tensor] = {}
        if not any(map(prod, self._transfer.received)):
            # The empty tensor that the gradient of this exchange comes through.
            (nothing,) = pieces
            empty = {shape: nothing.view(shape) for shape in self._shapes if not prod(shape)}
        result = []
        like = next(iter(self._own.values()))
        for index, shape in enumerate(self._shapes):
            if index in self._own:
                result.append(self._own[index])
            elif prod(shape):
                result.append(next(pieces))
            else:
                if shape not in empty:
                    empty[shape] = like.new_empty(shape)
                result.append(empty[shape])
        return tuple(result)


class Transfer:
    """State that the start and the end of an exchange share, in both directions.

    Attributes:
        buffer: Elements that are sent, if they are packed already.
    """

    buffer: Tensor | None = None

    def __init__(
        self,
        exchange: GroupExchange,
        sent: Sequence[Sequence[int]],
        received: Sequence[Sequence[int]],
        operator: str,
        direction: str,
        together: int,
    ) -> None:
        self.sent, self.received, self._together = sent, received, together
        self._exchange, self._operator, self._direction = exchange, operator, direction
        self._flight: tuple[Flight, Tensor, Tensor] | None = None

    def start(self, parts: Sequence[Tensor], *, backward: bool) -> None:
        """Send the parts that are not empty, in the order of the ranks."""
        shapes = (self.received, self.sent) if backward else (self.sent, self.received)
        send, receive = (self._by_rank(side) for side in shapes)
        way = "backward" if backward else self._direction
        flat = packed(parts) if self.buffer is None else self.buffer
        self.buffer = None
        self._flight = self._begin(flat, send, receive, "all_to_all", way)

    def _begin(
        self,
        flat: Tensor,
        send: list[int],
        receive: list[int],
        kind: str,
        direction: str,
    ) -> tuple[Flight, Tensor, Tensor]:
        """Exchange a buffer of parts; what this rank sends to itself is not counted."""
        group, ledger, rank = self._exchange.group, self._exchange.ledger, self._exchange.rank
        key = ledger.count(
            self._operator,
            direction,
            kind,
            (flat.numel() - send[rank]) * flat.element_size(),
            sum(size > 0 for size in send) - (send[rank] > 0),
        )
        out = flat.new_empty(sum(receive))
        work = dist.all_to_all_single(out, flat, receive, send, group=group, async_op=True)
        flight = Flight(work, key, group, on_host=flat.device.type == "cpu", ledger=ledger)
        # The buffers must not be freed while they are in use.
        return flight, flat, out

    def _by_rank(self, shapes: Sequence[Sequence[int]]) -> list[int]:
        """Return the number of elements of each rank."""
        counts = [prod(shape) for shape in shapes]
        starts = range(0, len(counts), self._together)
        return [sum(counts[start : start + self._together]) for start in starts]

    def finish(self, *, backward: bool) -> tuple[Tensor, ...]:
        """Return the parts that were received and are not empty; one empty one if all are."""
        assert self._flight is not None, "an exchange is waited for once"
        flight, _sent, out = self._flight
        self._flight = None
        flight.wait()
        shapes = [s for s in (self.sent if backward else self.received) if prod(s)]
        return _unpacked(out, shapes) if shapes else (out,)


class _Launch(torch.autograd.Function):
    """Start of an exchange; in backward, the end of that of the gradients."""

    @staticmethod
    def forward(ctx: Any, transfer: Transfer, *parts: Tensor) -> Tensor:
        ctx.transfer, ctx.shape = transfer, parts[0].shape
        transfer.start(parts, backward=False)
        # The result is in flight: `_Arrive` returns it, and depends on this one by an empty tensor.
        return parts[0].new_empty(0)

    @staticmethod
    def backward(ctx: Any, _token: Tensor) -> tuple[Tensor | None, ...]:
        first, *others = ctx.transfer.finish(backward=True)
        return None, first.view(ctx.shape), *others


class _Arrive(torch.autograd.Function):
    """End of an exchange; in backward, the start of that of the gradients."""

    @staticmethod
    def forward(ctx: Any, transfer: Transfer, _token: Tensor) -> tuple[Tensor, ...]:
        ctx.transfer = transfer
        return transfer.finish(backward=False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        ctx.transfer.start(grads, backward=True)
        return None, grads[0].new_empty(0)


def packed(parts: Sequence[Tensor]) -> Tensor:
    """Return the elements of all parts in one buffer, each copied once if it has to be."""
    first = parts[0]
    if len(parts) == 1:
        return first.reshape(-1)
    flat = first.new_empty(sum(part.numel() for part in parts))
    rows = _rows_alike([part.shape for part in parts])
    if rows is not None:
        torch.cat(list(parts), out=flat.view(sum(rows), *first.shape[1:]))
        return flat
    remaining, begin = list(parts), 0
    for shape, count in _runs([part.shape for part in parts]):
        # One kernel copies all parts of a shape.
        size = count * prod(shape)
        torch.stack(remaining[:count], out=flat.narrow(0, begin, size).view(count, *shape))
        del remaining[:count]
        begin += size
    return flat


def _unpacked(flat: Tensor, shapes: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    """Return the parts of a buffer, as views."""
    rows, rest = _rows_alike(shapes), shapes[0][1:]
    if rows is not None:
        return tuple(flat.view(sum(rows), *rest).split(rows))
    parts: list[Tensor] = []
    start = 0
    for shape, count in _runs(shapes):
        size = count * prod(shape)
        parts += flat.narrow(0, start, size).view(count, *shape).unbind(0)
        start += size
    return tuple(parts)


def _runs(shapes: Sequence[Sequence[int]]) -> list[tuple[tuple[int, ...], int]]:
    """Return the successive shapes that differ, each with the number of its repetitions."""
    return [(shape, len(list(same))) for shape, same in groupby(map(tuple, shapes))]


def _rows_alike(shapes: Sequence[Sequence[int]]) -> list[int] | None:
    """Return the sizes of the first axis if the shapes differ in it alone, else None."""
    first = shapes[0]
    if not first or any(shape[1:] != first[1:] for shape in shapes):
        return None
    return [shape[0] for shape in shapes]
