"""Several ranks as threads of one process, of which one runs at a time.

Ranks use `torch.distributed` as they do on processes. The process group has one collective
operation, the all-to-all that every move of a row slab is made of: a buffer is handed over when the
operation starts, and each rank copies its parts of all buffers when it waits.
"""

import gc
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed import multi_threaded_pg

from support.turns import Stopped, Turns

T = TypeVar("T")


class _Buffer(NamedTuple):
    """Buffer of a rank, and the number of elements in it for each rank."""

    flat: Tensor
    sizes: list[int]

    def part(self, rank: int) -> Tensor:
        return self.flat.narrow(0, sum(self.sizes[:rank]), self.sizes[rank])


class _Exchanges:
    """Buffers of all ranks in each exchange that some rank has not read yet.

    Attributes:
        turns: Turns of the ranks.
        count: Number of ranks.
    """

    def __init__(self, count: int) -> None:
        self.turns, self.count = Turns(count), count
        self._buffers: defaultdict[int, dict[int, _Buffer]] = defaultdict(dict)
        self._reads: defaultdict[int, int] = defaultdict(int)

    def send(self, number: int, rank: int, buffer: _Buffer) -> None:
        """Hand over the buffer of a rank in its exchange of a number."""
        self._buffers[number][rank] = buffer
        self.turns.step()

    def receive(self, number: int, rank: int, out: Tensor, sizes: Sequence[int]) -> None:
        """Copy the parts for a rank, once all ranks have started the exchange."""
        buffers = self._buffers[number]

        def missing() -> str:
            ranks = sorted(set(range(self.count)) - set(buffers))
            return f"exchange {number}, which ranks {ranks} have not started"

        self.turns.wait(rank, lambda: len(buffers) == self.count, missing)
        sent = [buffers[source].sizes[rank] for source in range(self.count)]
        if sent != list(sizes):
            raise RuntimeError(f"rank {rank} expects {list(sizes)} elements, and is sent {sent}")
        parts = [buffers[source].part(rank) for source, size in enumerate(sizes) if size]
        if parts:
            with torch.no_grad():
                torch.cat(parts, out=out)
        self._reads[number] += 1
        if self._reads[number] == self.count:
            del self._buffers[number], self._reads[number]


class _Work:
    """Exchange in flight, as `torch.distributed` returns it."""

    def __init__(self, finish: Callable[[], None]) -> None:
        self._finish = finish

    def wait(self) -> bool:
        self._finish()
        return True


class _ThreadGroup(dist.ProcessGroup):
    """Process group of ranks in threads."""

    def __init__(self, rank: int, exchanges: _Exchanges) -> None:
        super().__init__(rank, exchanges.count)
        self._rank, self._exchanges, self._started = rank, exchanges, 0

    def size(self) -> int:
        return self._exchanges.count

    def getBackendName(self) -> str:  # noqa: N802
        return _BACKEND

    @property
    def group_name(self) -> str:
        return str(dist.distributed_c10d._world.pg_names[self])

    def all_to_all_single(
        self,
        output: Tensor,
        sent: Tensor,
        output_sizes: list[int],
        sent_sizes: list[int],
        _options: Any = None,
    ) -> _Work:
        number, self._started = self._started, self._started + 1
        self._exchanges.send(number, self._rank, _Buffer(sent.detach(), sent_sizes))
        return _Work(lambda: self._exchanges.receive(number, self._rank, output, output_sizes))

    # Name in torch 2.11.
    alltoall_base = all_to_all_single


_BACKEND = "turns"
_running: list[_Exchanges] = []
dist.Backend.register_backend(
    _BACKEND, lambda store, rank, size, timeout: _ThreadGroup(rank, _running[-1]), devices=["cpu"]
)


def on_ranks(count: int, program: Callable[[int], T]) -> list[T]:
    """Return what `program` returns on each rank; the first error of a rank is raised."""
    results: list[Any] = [None] * count
    errors: list[BaseException] = []
    exchanges, store = _Exchanges(count), dist.HashStore()
    turns = exchanges.turns

    def run(rank: int) -> None:
        failed = False
        try:
            turns.begin(rank)
            with torch.autograd.set_multithreading_enabled(False):
                dist.init_process_group(_BACKEND, rank=rank, world_size=count, store=store)
                results[rank] = program(rank)
                dist.destroy_process_group()
        except Stopped:
            failed = True
        except BaseException as error:
            errors.append(error)
            failed = True
        finally:
            turns.end(rank, failed=failed)

    torch._C._distributed_c10d._set_thread_isolation_mode(True)
    multi_threaded_pg._install_threaded_pg()
    _running.append(exchanges)
    # Graphs of many ranks are many objects, which the collector would visit over and over.
    gc.disable()
    try:
        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
        for thread in threads:
            thread.start()
        turns.start()
        for thread in threads:
            thread.join()
    finally:
        gc.enable()
        _running.pop()
        multi_threaded_pg._uninstall_threaded_pg()
        torch._C._distributed_c10d._set_thread_isolation_mode(False)
    if errors:
        raise errors[0]
    return results
