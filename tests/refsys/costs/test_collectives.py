"""Traced communication equals that of real ranks, and its formulas."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from refsys.costs.collectives import CollectiveKey, Communication, sent_bytes
from refsys.costs.prediction import predict
from refsys.costs.trace import trace
from refsys.errors import ArgumentError
from refsys.parallel.collectives import traffic
from refsys.parallel.data_parallel import GradientAverage

WIDTH, LAYERS, BUCKET_BYTES = 24, 6, 6000


class DataParallelStep:
    """A step whose gradients are averaged over all ranks, in several buckets."""

    phases = ("forward", "backward", "all_reduce")
    forward_phases = ("forward",)

    def __init__(self):
        self.module = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
        # Never differentiated: its bucket is sent by what is left.
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


def rank_of_gloo(rank, ranks, port, out):
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    program = DataParallelStep()
    before = traffic()
    traced = trace(program)
    sent = traffic().since(before)
    torch.save((sent.calls, sent.nbytes, traced.communication), f"{out}/{rank}.pt")
    dist.destroy_process_group()


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("ranks", [2, 4])
def test_predicted_communication_of_a_rank_equals_what_gloo_ranks_send(tmp_path, ranks):
    mp.spawn(rank_of_gloo, (ranks, free_port(), str(tmp_path)), nprocs=ranks)
    for rank in range(ranks):
        calls, nbytes, real = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        predicted = predict(DataParallelStep, ranks=ranks, rank=rank).communication
        assert predicted == real
        assert {(key.kind, key.ranks) for key in predicted} == {("all_reduce", ranks)}
        assert {key.phase for key in predicted} == {"backward", "all_reduce"} - (
            set() if len(predicted) == 2 else {"all_reduce"}
        )
        assert sum(total.calls for total in predicted.values()) == calls > 1
        assert sum(total.payload_bytes for total in predicted.values()) == nbytes
        gradients = 4 * LAYERS * (WIDTH * WIDTH + WIDTH)
        assert nbytes == gradients
        sent = sum(total.sent_bytes for total in predicted.values())
        assert sent == pytest.approx(2 * gradients * (ranks - 1) / ranks, abs=calls)


class AllCollectives:
    """One call of each kind."""

    phases = ("exchange",)
    forward_phases = ()
    module = None

    def tensors(self):
        return {}

    def run(self, phase):
        ranks, rank = dist.get_world_size(), dist.get_rank()
        part, whole = torch.zeros(10), torch.zeros(10 * ranks)
        dist.all_reduce(part)
        dist.all_gather_into_tensor(whole, part)
        dist.all_gather(list(whole.chunk(ranks)), part)
        dist.reduce_scatter_tensor(part, whole)
        dist.all_to_all_single(torch.empty_like(whole), whole)
        dist.broadcast(part, src=0)
        dist.reduce(part, dst=0)
        exchange = [
            dist.P2POp(dist.isend, part, (rank + 1) % ranks),
            dist.P2POp(dist.irecv, torch.empty(10), (rank - 1) % ranks),
        ]
        for work in dist.batch_isend_irecv(exchange):
            work.wait()
        dist.barrier()
        group = dist.new_group(list(range(2)))
        if rank < 2:
            dist.all_reduce(part, group=group)


@pytest.mark.parametrize("ranks", [2, 3, 1024])
def test_kinds_and_bytes_follow_the_documented_formulas(ranks):
    communication = predict(AllCollectives, ranks=ranks, rank=1).communication
    n, total = 40, 40 * ranks

    def key(kind, size=ranks):
        return CollectiveKey("exchange", kind, size)

    expected = {
        key("all_reduce"): Communication(1, n, -(-2 * n * (ranks - 1) // ranks)),
        key("all_gather"): Communication(2, 2 * n, 2 * n * (ranks - 1)),
        key("reduce_scatter"): Communication(1, total, n * (ranks - 1)),
        key("all_to_all"): Communication(1, total, n * (ranks - 1)),
        key("broadcast"): Communication(1, n, n),
        key("reduce"): Communication(1, n, n),
        key("send"): Communication(1, n, n),
        key("receive"): Communication(1, 0, 0),
        key("barrier"): Communication(1, 0, 0),
    }
    pair = key("all_reduce", 2)
    subgroup = Communication(1, n, n)
    if ranks == 2:
        expected[pair].calls += 1
        expected[pair].payload_bytes += n
        expected[pair].sent_bytes += n
    else:
        expected[pair] = subgroup
    assert communication == expected


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "broadcast", "send", "scatter"])
def test_single_rank_sends_nothing(kind):
    assert sent_bytes(kind, 1000, 1) == 0


@pytest.mark.parametrize("rank", [-1, 2])
def test_rank_outside_of_the_world_is_refused(rank):
    with pytest.raises(ArgumentError, match=rf"rank={rank} is not one of 2 ranks"):
        predict(AllCollectives, ranks=2, rank=rank)
    assert not dist.is_initialized()


def test_process_group_is_gone_after_a_prediction_that_fails():
    def build():
        raise RuntimeError("cannot be built")

    with pytest.raises(RuntimeError, match="cannot be built"):
        predict(build, ranks=4)
    assert not dist.is_initialized()
