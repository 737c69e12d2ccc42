"""Averaged gradients equal those of one rank with all examples, and torch's own average."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from support import HANG_S, free_port
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from refsys.config import PRESETS
from refsys.data.batches.construction import ExampleSpec
from refsys.data.batches.synthetic import synthetic_batch
from refsys.parallel.collectives import traffic
from refsys.parallel.data_parallel import GradientAverage
from refsys.precision import precision
from refsys.training.step import TrunkTraining

SPEC = ExampleSpec(tokens=8, alignment_rows=4, seed=3)


def gradients(ranks, rank, bucket_bytes=None):
    """Return gradients and traffic of a float64 trunk step on this rank's share of 4 examples."""
    training = TrunkTraining(PRESETS["tiny"], precision("float64"), seed=1)
    training.initialize()
    average = None
    if ranks > 1:
        average = GradientAverage(training.parameters, bucket_bytes=bucket_bytes)
    share = 4 // ranks
    spec = dataclasses.replace(SPEC, batch=share, first=rank * share)
    for step in range(2):
        before = traffic()
        training.model.zero_grad()
        training.backward(training.forward(synthetic_batch(spec, step), step))
        if average:
            average.wait()
    averaged = [None if p.grad is None else p.grad.clone() for p in training.parameters]
    return averaged, traffic().since(before)


class Objective(nn.Module):
    """The same loss as one module with one entry, which DistributedDataParallel needs."""

    def __init__(self, training):
        super().__init__()
        self.training_step, self.model = training, training.model

    def forward(self, batch, step):
        return self.training_step.forward(batch, step)


def torch_gradients(ranks, rank):
    """Return the gradients of the same step by torch's DistributedDataParallel."""
    training = TrunkTraining(PRESETS["tiny"], precision("float64"), seed=1)
    training.initialize()
    parallel = DistributedDataParallel(Objective(training), find_unused_parameters=True)
    share = 4 // ranks
    spec = dataclasses.replace(SPEC, batch=share, first=rank * share)
    parallel(synthetic_batch(spec, 1), 1).backward()
    return [None if p.grad is None else p.grad.clone() for p in training.parameters]


def on_a_rank(rank, ranks, port, bucket_bytes, out):
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    averaged = gradients(ranks, rank, bucket_bytes)
    by_torch = torch_gradients(ranks, rank) if ranks == 2 else None
    torch.save((*averaged, by_torch), f"{out}/{rank}.pt")
    dist.destroy_process_group()


def run_ranks(ranks, bucket_bytes, out):
    """Run the ranks from a process of their own, which has started no thread that forking loses."""
    arguments = (ranks, free_port(), bucket_bytes, str(out))
    call = f"mp.start_processes(on_a_rank, {arguments}, nprocs={ranks}, start_method='fork')"
    modules = "import torch.multiprocessing as mp\nfrom test_data_parallel import on_a_rank"
    script = f"{modules}\n{call}"
    tests = Path(__file__).resolve().parents[1]
    paths = [tests.parent, tests, tests / "refsys"]
    subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))},
        check=True,
        timeout=HANG_S,
    )


@pytest.mark.bits
@pytest.mark.parametrize(("ranks", "bucket_bytes"), [(2, 2**30), (4, 20_000)])
def test_averaged_gradients_equal_those_of_the_global_batch(tmp_path, ranks, bucket_bytes):
    run_ranks(ranks, bucket_bytes, tmp_path)
    expected, _ = gradients(1, 0)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(ranks)]
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in expected)
    for rank, (averaged, counters, by_torch) in enumerate(results):
        for ours, reference, first in zip(averaged, expected, results[0][0], strict=True):
            assert (ours is None) == (reference is None), rank
            if reference is not None:
                torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-12)
                assert torch.equal(ours, first), "ranks differ"
        assert counters.nbytes == sum(8 * g.numel() for g in expected if g is not None)
        assert (counters.calls > 1) == (bucket_bytes < 2**20)
        if by_torch is None:
            continue
        for ours, theirs in zip(averaged, by_torch, strict=True):
            # Of a parameter that no rank uses, DistributedDataParallel makes a gradient of zeros.
            expected_gradient = torch.zeros(()) if ours is None else ours
            if theirs is not None:
                torch.testing.assert_close(theirs, expected_gradient.expand_as(theirs).to(theirs))
