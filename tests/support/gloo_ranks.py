"""Trace a data-parallel step on real ranks: ``python gloo_ranks.py RANKS FOLDER``.

Each rank writes ``RANK.pt``: calls and bytes that `refsys.parallel.collectives` counted, the traced
communication, and the bytes that all ranks sent through the loopback interface. Those are None
unless the process has a network of its own, since other processes use the interface too.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from refsys.costs.trace import trace
from refsys.parallel.collectives import traffic
from refsys.parallel.data_parallel import GradientAverage

WIDTH, LAYERS, BUCKET_BYTES = 256, 7, 400_000
GRADIENT_BYTES = 4 * LAYERS * (WIDTH * WIDTH + WIDTH)


class DataParallelStep:
    """A step whose gradients are averaged over all ranks, in several buckets."""

    phases = ("forward", "backward", "all_reduce")
    forward_phases = ("forward",)

    def __init__(self):
        self.module = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
        # Its bucket is never full, and is sent in the phase `all_reduce`.
        self.module.register_parameter("unused", nn.Parameter(torch.ones(WIDTH)))
        self.average = GradientAverage(self.module.parameters(), bucket_bytes=BUCKET_BYTES)
        self.x = torch.ones(4, WIDTH)

    def tensors(self):
        return {"parameters": list(self.module.parameters()), "inputs": [self.x]}

    def run(self, phase):
        if phase == "forward":
            self.loss = self.module(self.x).square().sum()
        elif phase == "backward":
            self.loss.backward()
        else:
            self.average.wait()


def loopback_bytes():
    lines = Path("/proc/net/dev").read_text(encoding="utf-8").splitlines()
    (counters,) = (line.split() for line in lines if line.split()[0] == "lo:")
    return int(counters[9])


def run_rank(rank, ranks, folder, port):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    program = DataParallelStep()
    dist.barrier()
    counted, sent = traffic(), loopback_bytes()
    traced = trace(program)
    dist.barrier()
    sent = loopback_bytes() - sent
    counted = traffic().since(counted)
    isolated = os.environ.get("ISOLATED_NETWORK") == "1"
    result = counted.calls, counted.nbytes, traced.communication, sent if isolated else None
    torch.save(result, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    count, out, free_port = sys.argv[1:]
    # Forked, the ranks need not import torch again.
    arguments = int(count), out, free_port
    mp.start_processes(run_rank, arguments, nprocs=int(count), start_method="fork")
