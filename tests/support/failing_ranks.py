"""Runs that fail on one of three ranks: ``python failing_ranks.py FOLDER``.

The ranks are forked once torch is imported. Each one that is left writes ``CASE.RANK`` with the
kind of its error, its seconds and its message; for the case ``record`` ranks of a sweep's case
write their results. Rank 1 fails, in ``no_store`` rank 0.
"""

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    tests = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(tests.parent), str(tests)]

import torch

from bench.run import case
from refsys.errors import DataError
from refsys.parallel.batch_layouts import RowSlabLayouts
from refsys.parallel.collectives import GroupExchange
from refsys.parallel.mesh import join
from refsys.parallel.monitor import reporting
from refsys.run_config import ParallelOptions, run_config
from refsys.training.loading import placeholders
from refsys.training.step import TrunkTraining
from refsys.training.trainer import Trainer
from support import free_port
from support.trunks import CONFIG, FLOAT64, random_batch
from workloads.catalogue import catalogue

RANKS, TOKENS = 3, 7
# Long enough that only a rank that is missing exceeds it.
TIMEOUT_S = 5.0
MODEL = dataclasses.replace(CONFIG, msa_blocks=1, pairformer_blocks=1, c_s=16, c_z=8)


def end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    time.sleep(60)


def unreadable() -> None:
    raise DataError("entries/1abc: its checksum differs")


class Case(NamedTuple):
    """Difference of the failing rank.

    Attributes:
        options: Options of its configuration.
        tokens: Size of its batch.
        joins: Whether it joins.
        action: What it does when it begins an exchange of triangle multiplication.
        rank: Number of the rank.
    """

    options: dict[str, str] = {}  # noqa: RUF012 (never changed)
    tokens: int = TOKENS
    joins: bool = True
    action: Callable[[], None] | None = None
    rank: int = 1


CASES = {
    "killed": Case(action=end),
    "hung": Case(action=hang),
    "error": Case(action=unreadable),
    "tokens": Case(tokens=TOKENS + 1),
    "dtype": Case(options={"precision": "bfloat16"}),
    "configuration": Case(options={"preset": "mini"}),
    "absent": Case(joins=False),
    "no_store": Case(joins=False, rank=0),
}


class FailingExchange(GroupExchange):
    """Exchange that fails on this rank."""

    action: Callable[[], None]

    def begin(self, parts, shapes, operator, **options):
        if operator == "triangle_multiplication":
            self.action()
        return super().begin(parts, shapes, operator, **options)


def step(which: Case, training: TrunkTraining, fails: bool) -> None:
    """Run a training step of the trunk, divided among the ranks."""
    options = which.options if fails else {}
    parallel = ParallelOptions(context_ranks=RANKS, collective_timeout=TIMEOUT_S)
    device = torch.device("cpu")
    ranks = join(parallel, device, run=run_config(**options).identity(), dumps=Path.cwd())
    exchange = GroupExchange(ranks.context_group)
    if fails and which.action is not None:
        exchange = FailingExchange(ranks.context_group)
        exchange.action = which.action
    training.layouts = RowSlabLayouts(exchange, agreement=ranks.context_agreement)
    tokens = which.tokens if fails else TOKENS
    batches = placeholders(lambda: random_batch(TOKENS, 2).padded(token=tokens))
    trainer = Trainer(run_config(backend="reference"), training, batches)
    with reporting():
        for phase in trainer.phases.values():
            phase()


def run_rank(name: str, training: TrunkTraining, rank: int) -> None:
    """Run a case on one rank and write its error."""
    which, start = CASES[name], time.monotonic()
    try:
        step(which, training, rank == which.rank)
        error = None
    except Exception as raised:
        error = raised
    seconds = time.monotonic() - start
    Path(f"{name}.{rank}").write_text(
        json.dumps([type(error).__name__, seconds, str(error)]), encoding="utf-8"
    )


def measure_rank(rank: int) -> None:
    """Measure a case of a sweep, whose rank 1 is killed in its backward pass."""
    workload = catalogue()["alphafold3-trunk"]
    axes = {"entry": "synthetic", "tokens": 8, "alignment_rows": 2, "context_ranks": 2}
    request = {
        "parent": os.getppid(),
        "workload": workload.name,
        "config": workload.values(workload.configure(axes | {"workers": 0})),
        "seed": 0,
        "device": "cpu",
        "store": str(Path.cwd()),
        "protocol": {"warmup_steps": 0, "timed_steps": 1, "counts": False, "energy_s": 1.0},
        "timeout_s": 20.0,
    }
    path = Path(f"request.{rank}")
    path.write_text(json.dumps(request), encoding="utf-8")
    if rank == 1:
        Trainer._backward = lambda self: end()
    case.main(str(path), "result")


def fork(program: Callable[[int], None], ranks: list[int], count: int = RANKS) -> dict[int, int]:
    """Run a program on some of the ranks, and return how each ended, as `os.waitpid` has it."""
    variables = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    os.environ |= variables | {"MASTER_PORT": str(free_port())}
    children = {}
    for rank in ranks:
        if child := os.fork():
            children[child] = rank
            continue
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        try:
            program(rank)
        finally:
            os._exit(0)
    return {children[child]: os.waitpid(child, 0)[1] for child in children}


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    torch.set_num_threads(1)
    trunk = TrunkTraining(MODEL, FLOAT64)
    trunk.initialize()
    statuses = {}
    for name, which in CASES.items():
        started = [rank for rank in range(RANKS) if which.joins or rank != which.rank]
        statuses[name] = fork(partial(run_rank, name, trunk), started)
    statuses["record"] = fork(measure_rank, [0, 1], count=2)
    Path("statuses").write_text(json.dumps(statuses), encoding="utf-8")
