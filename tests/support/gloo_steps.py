"""Divided training steps on real ranks: ``python -m support.gloo_steps RANKS,... FOLDER PORT``.

The ranks are forked once torch is imported. Smaller context groups are the first ranks. For each
number of ranks the first one writes ``RANKS.pt``: the loss, its parts, the summed gradients and the
traffic of every rank. ``RANKSxNODE`` has hierarchical exchanges between nodes of NODE ranks.
"""

import os
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from refsys.parallel.collectives import GroupExchange
from refsys.parallel.hierarchical import HierarchicalExchange
from refsys.parallel.ledger import Ledger
from support.sharded_steps import losses_and_gradients, step_batch, training
from support.volumes import volumes_of


def most(counts):
    """Return the largest number of ranks."""
    return max(int(name.split("x")[0]) for name in counts)


def run_rank(rank, counts, folder, port):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=most(counts))
    for name in counts:
        count, *node = map(int, name.split("x"))
        group = dist.new_group(range(count))
        if rank < count:
            ledger = Ledger()
            exchange = (
                HierarchicalExchange(*node, group, ledger) if node else GroupExchange(group, ledger)
            )
            step = training(exchange)
            loss, parts, gradients = losses_and_gradients(step, step_batch(), ledger)
            traffic = [None] * count
            dist.all_gather_object(traffic, volumes_of(ledger), group=group)
            present = [gradient for gradient in gradients.values() if gradient is not None]
            total = torch.cat([gradient.flatten() for gradient in present])
            dist.all_reduce(total, group=group)
            parts_of_total = total.split([gradient.numel() for gradient in present])
            for gradient, summed in zip(present, parts_of_total, strict=True):
                gradient.copy_(summed.view_as(gradient))
            if rank == 0:
                torch.save((loss, parts, gradients, traffic), f"{folder}/{name}.pt")
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    counts, out, free_port = sys.argv[1:]
    names = counts.split(",")
    arguments = (names, out, free_port)
    # What the first step imports, it imports once for all ranks.
    torch.set_num_threads(1)
    losses_and_gradients(training(), step_batch())
    mp.start_processes(run_rank, arguments, nprocs=most(names), start_method="fork")
