"""Collectives on every rank: ``python -m bench.check_device.collectives DEVICE SIZES RESULT``.

Started by `torchrun`. Each operation's result is compared with what it must be, number by number:
the inputs are small integers, whose sums every dtype holds exactly. The bandwidth of the bus is
the bytes that each rank must send, over the time: 2(P-1)/P of the buffer for an all-reduce, and
(P-1)/P for the others.
"""

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from refsys.files import write_json

_SAMPLES = 10
_TIMEOUT = timedelta(seconds=60)
Operation = Callable[[Tensor, Tensor], object]


def main(kind: str, sizes: str, result: str) -> int:
    """Run every operation at every size (MiB); rank 0 writes the measurements."""
    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=_TIMEOUT)
    measurements = [
        _measure(name, int(float(size) * 2**20), device)
        for size in sizes.split(",")
        for name in _OPERATIONS
    ]
    if rank == 0:
        write_json(Path(result), measurements)
    dist.barrier()
    dist.destroy_process_group()
    return 0


def _measure(name: str, nbytes: int, device: torch.device) -> dict[str, Any]:
    from bench.devices import find_device

    rank, ranks = dist.get_rank(), dist.get_world_size()
    operation, buffers, share = _OPERATIONS[name], _BUFFERS[name], _SHARES[name](ranks)
    count = nbytes // 4 // ranks * ranks
    source, target = buffers(count, rank, ranks, device)
    operation(target, source)
    equal = torch.tensor(int(torch.equal(target, _expected(name, count, rank, ranks, device))))
    equal = equal.to(device)
    dist.all_reduce(equal, op=dist.ReduceOp.MIN)
    watch = find_device(device.type, device.index or 0).stopwatch()
    seconds = []
    for _ in range(_SAMPLES):
        dist.barrier()
        watch.mark()
        operation(target, source)
        watch.mark()
        seconds.append(watch.intervals()[0])
    slowest = torch.tensor(median(seconds), device=device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    time = float(slowest)
    return {
        "operation": name,
        "bytes": 4 * count,
        "equal": bool(equal.item()),
        "seconds": time,
        "bus_bytes_s": 4 * count * share / time,
    }


def _values(count: int, rank: int, device: torch.device) -> Tensor:
    """Return the input of a rank: integers below 1,000 that differ between ranks and positions."""
    return ((torch.arange(count, device=device) * 7 + 131 * rank) % 997).float()


def _all_reduce(target: Tensor, source: Tensor) -> None:
    target.copy_(source)
    dist.all_reduce(target)


def _all_gather(target: Tensor, source: Tensor) -> None:
    dist.all_gather(list(target.chunk(dist.get_world_size())), source)


def _reduce_scatter(target: Tensor, source: Tensor) -> None:
    if dist.get_backend() == "nccl":
        dist.reduce_scatter(target, list(source.chunk(dist.get_world_size())))
        return
    # gloo has no reduce-scatter.
    whole = source.clone()
    dist.all_reduce(whole)
    target.copy_(whole.chunk(dist.get_world_size())[dist.get_rank()])


def _all_to_all(target: Tensor, source: Tensor) -> None:
    dist.all_to_all_single(target, source)


def _expected(name: str, count: int, rank: int, ranks: int, device: torch.device) -> Tensor:
    """Return the expected result of an operation on a rank."""
    part = count // ranks
    if name == "all_gather":
        return torch.cat([_values(part, other, device) for other in range(ranks)])
    inputs = [_values(count, other, device) for other in range(ranks)]
    if name == "all_to_all":
        return torch.cat([values.chunk(ranks)[rank] for values in inputs])
    total = torch.stack(inputs).sum(dim=0)
    return total if name == "all_reduce" else total.chunk(ranks)[rank].clone()


def _whole(count: int, rank: int, ranks: int, device: torch.device) -> tuple[Tensor, Tensor]:
    del ranks
    return _values(count, rank, device), torch.full((count,), -1.0, device=device)


def _gathered(count: int, rank: int, ranks: int, device: torch.device) -> tuple[Tensor, Tensor]:
    return _values(count // ranks, rank, device), torch.full((count,), -1.0, device=device)


def _scattered(count: int, rank: int, ranks: int, device: torch.device) -> tuple[Tensor, Tensor]:
    return _values(count, rank, device), torch.full((count // ranks,), -1.0, device=device)


_OPERATIONS: dict[str, Operation] = {
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
    "reduce_scatter": _reduce_scatter,
    "all_to_all": _all_to_all,
}
_BUFFERS = {
    "all_reduce": _whole,
    "all_gather": _gathered,
    "reduce_scatter": _scattered,
    "all_to_all": _whole,
}
_SHARES: dict[str, Callable[[int], float]] = {
    "all_reduce": lambda ranks: 2 * (ranks - 1) / ranks,
    "all_gather": lambda ranks: (ranks - 1) / ranks,
    "reduce_scatter": lambda ranks: (ranks - 1) / ranks,
    "all_to_all": lambda ranks: (ranks - 1) / ranks,
}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
