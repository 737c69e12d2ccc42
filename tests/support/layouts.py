"""Layouts that simulate several ranks within one process.

`LockstepLayout` runs one thread per rank with real exchanges; `PoisonLayout` is a single rank whose
exchanges return garbage in place of other ranks' data.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from refsys.parallel import Layout
from support import HANG_S


def slabs(tokens: int, ranks: int) -> list[tuple[int, int]]:
    """Return contiguous slabs of nearly equal size; the first ones are one token longer."""
    sizes = [tokens // ranks + (rank < tokens % ranks) for rank in range(ranks)]
    stops = torch.tensor(sizes).cumsum(0).tolist()
    return [(stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]


class _SlabLayout(Layout):
    """Slab layout whose moves are computed from the tensors of all ranks."""

    def __init__(self, tokens: int, rank: int, ranks: int) -> None:
        self.tokens, self.rank, self.ranks = tokens, rank, ranks
        self.start, self.stop = slabs(tokens, ranks)[rank]

    def everyone_of(self, x: Tensor, axis: int, sizes: list[int]) -> list[Tensor]:
        """Return `x` of every rank, in order; its axis has `sizes` on the ranks."""
        raise NotImplementedError

    def shapes(self, x: Tensor, axis: int, sizes: list[int]) -> list[torch.Size]:
        """Return the shape of `x` on each rank, if its axis has `sizes`."""
        return [torch.Size((*x.shape[:axis], n, *x.shape[axis + 1 :])) for n in sizes]

    def _rows(self) -> list[int]:
        return [stop - start for start, stop in slabs(self.tokens, self.ranks)]

    def gather_tokens(self, x: Tensor, axis: int) -> Tensor:
        return torch.cat(self.everyone_of(x, axis, self._rows()), dim=axis)

    def rows_to_columns(self, z_BRNC: Tensor) -> Tensor:
        whole = torch.cat(self.everyone_of(z_BRNC, 1, self._rows()), dim=1)
        return whole[:, :, self.start : self.stop].transpose(1, 2)

    columns_to_rows = rows_to_columns

    def rows_to_channels(self, z_BRNC: Tensor) -> Tensor:
        whole = torch.cat(self.everyone_of(z_BRNC, 1, self._rows()), dim=1)
        return whole.tensor_split(self.ranks, dim=-1)[self.rank]

    def channels_to_rows(self, z_BNNc: Tensor, channels: int) -> Tensor:
        sizes = [len(part) for part in torch.arange(channels).tensor_split(self.ranks)]
        whole = torch.cat(self.everyone_of(z_BNNc, z_BNNc.dim() - 1, sizes), dim=-1)
        return whole[:, self.start : self.stop]

    def stream_rows(self, z_BRNC: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        parts = self.everyone_of(z_BRNC, 1, self._rows())
        for (start, stop), part in zip(slabs(self.tokens, self.ranks), parts, strict=True):
            yield start, stop, part

    def halo(self, x: Tensor, axis: int, width: int) -> Tensor:
        """See `Layout`; for parts of the size of the token slabs."""
        whole = torch.cat(self.everyone_of(x, axis, self._rows()), dim=axis)
        ends = list(whole.shape)
        ends[axis] = width
        padded = torch.cat([whole.new_zeros(ends), whole, whole.new_zeros(ends)], dim=axis)
        return padded.narrow(axis, self.start, self.stop - self.start + 2 * width)

    def sum_ranks(self, x: Tensor) -> Tensor:
        return torch.stack(self.everyone_of(x.unsqueeze(0), 0, [1] * self.ranks)).sum(dim=(0, 1))


class LockstepLayout(_SlabLayout):
    """One of several ranks that run in threads and synchronize at every move; forward only."""

    def __init__(self, tokens: int, rank: int, ranks: int, shared: "_Meeting") -> None:
        super().__init__(tokens, rank, ranks)
        self._shared = shared

    def everyone_of(self, x: Tensor, axis: int, sizes: list[int]) -> list[Tensor]:
        parts = self._shared.exchange(self.rank, x)
        assert [part.shape for part in parts] == self.shapes(x, axis, sizes)
        return parts


class PoisonLayout(_SlabLayout):
    """Single rank whose exchanges return garbage for other ranks, with correct shapes."""

    def everyone_of(self, x: Tensor, axis: int, sizes: list[int]) -> list[Tensor]:
        garbage = torch.Generator().manual_seed(13)
        return [
            x if rank == self.rank else torch.randn(shape, generator=garbage, dtype=x.dtype)
            for rank, shape in enumerate(self.shapes(x, axis, sizes))
        ]


class _Meeting:
    """Exchange of tensors between the threads of ranks."""

    def __init__(self, ranks: int) -> None:
        self._barrier = threading.Barrier(ranks, timeout=HANG_S)
        self._parts: list[Any] = [None] * ranks

    def exchange(self, rank: int, x: Tensor) -> list[Tensor]:
        self._parts[rank] = x
        self._barrier.wait()
        parts = list(self._parts)
        self._barrier.wait()
        return parts

    def abort(self) -> None:
        self._barrier.abort()


def in_lockstep(
    tokens: int, ranks: int, program: Callable[[Layout], tuple[Tensor, ...]]
) -> list[tuple[Tensor, ...]]:
    """Run `program` on `ranks` ranks in parallel threads and return the results by rank."""
    meeting = _Meeting(ranks)
    results: list[Any] = [None] * ranks

    def run(rank: int) -> None:
        try:
            with torch.no_grad():
                results[rank] = program(LockstepLayout(tokens, rank, ranks, meeting))
        except BaseException as error:
            results[rank] = error
            meeting.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException) and not isinstance(
            result, threading.BrokenBarrierError
        ):
            raise result
    return results
