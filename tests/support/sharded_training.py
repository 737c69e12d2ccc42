"""Training of a tiny model in float64 whose ranks share its parameters.

``python -m support.sharded_training FOLDER`` forks three ranks and runs the cases of `CASES` one
after the other; the first rank writes ``CASE.pt``, a `Result`, or the message of an error.
"""

import dataclasses
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from refsys.batch import Batch
from refsys.model import offload
from refsys.model.diffusion import SamplerConfig
from refsys.parallel.batch_layouts import RowSlabLayouts
from refsys.parallel.collectives import GroupExchange
from refsys.parallel.mesh import RunRanks, join
from refsys.run_config import OptimizerConfig, ParallelOptions, run_config
from refsys.training.alphafold3_step import AlphaFold3Training
from refsys.training.checkpoint import latest, restore, save
from refsys.training.loading import placeholders
from refsys.training.trainer import Trainer
from support.atoms import with_atoms, with_labels, with_templates
from support.sharded_steps import CYCLES, MODEL, STAGE
from support.trunks import FLOAT64, random_batch, randomize

STEPS = 3
EXAMPLES = 2
CONFIG = dataclasses.replace(MODEL, msa_blocks=1, token_blocks=1)
SCHEDULE = OptimizerConfig(learning_rate=1e-3, warmup_steps=2, clip=1.0)


class Case(NamedTuple):
    """Ranks of a run, and its steps.

    Attributes:
        data: Data ranks.
        context: Context ranks.
        saved: Steps after which a checkpoint is written, from which the run is repeated once it
            has ended; 0 for none.
        start: Case whose checkpoint is continued from.
        steps: Steps at the end.
        checkpointing: Whether blocks recompute their activations.
        root: Whether the parameters outside of blocks are sharded, as they must be.
        offload: Whether inputs of recomputed blocks wait in host memory.
    """

    data: int = 1
    context: int = 1
    saved: int = 0
    start: str = ""
    steps: int = STEPS
    checkpointing: bool = True
    root: bool = True
    offload: bool = False

    @property
    def ranks(self) -> int:
        return self.data * self.context


CASES = {
    "one": Case(saved=2),
    "two": Case(context=2, saved=2, checkpointing=False),
    "data": Case(data=2, start="one"),
    "three": Case(context=3, start="two", offload=True),
    "one_again": Case(start="two"),
    "no_root": Case(context=2, steps=1, root=False),
}


class Result(NamedTuple):
    """Result of a case.

    Attributes:
        scalars: Of each step: loss, gradient norm and parts of the loss, the mean over data ranks.
        tensors: Every parameter, average and moment at the end, from all ranks.
        held: Trained parameters, averages and moments that each rank holds.
        repeated: Whether the steps after the checkpoint had the same bits, once restored.
    """

    scalars: list[list[float]]
    tensors: dict[str, torch.Tensor]
    held: list[int]
    repeated: bool


def batch(rank: int, ranks: int) -> Batch:
    """Return a data rank's examples."""
    both = with_labels(with_atoms(random_batch(12, 2, EXAMPLES, cycles=CYCLES), least=6))
    share = EXAMPLES // ranks
    mine = slice(rank * share, (rank + 1) * share)
    both = with_templates(both, count=1)
    return Batch({name: tensor[mine] for name, tensor in both.items()}, both.fields)


def run(case: Case, folder: Path, name: str) -> Result:
    """Run a case on this rank."""
    sharded = case.ranks > 1
    parallel = ParallelOptions(
        data_ranks=case.data, context_ranks=case.context, shard_parameters=sharded
    )
    ranks = join(parallel, torch.device("cpu"))
    training = AlphaFold3Training(
        CONFIG,
        FLOAT64,
        stage=STAGE,
        samples=1,
        cycles=CYCLES,
        optimizer=SCHEDULE,
        checkpointing=case.checkpointing,
        offload_checkpoints=case.offload,
    )
    if case.offload:
        # The tensors of this model are small.
        offload.LEAST_BYTES = 1
    randomize(training.model)
    training.restart_averages()
    training.model.rollout = partial(training.model.rollout, sampler=SamplerConfig(steps=1))
    if sharded:
        training.shard(ranks)
    if case.context > 1:
        training.layouts = RowSlabLayouts(GroupExchange(ranks.context_group))
    scalars = []
    done = restore(latest(folder / case.start), training, {}) if case.start else 0
    trainer = trainer_of(training, ranks, done)
    for step in range(done, case.steps):
        scalars.append(one_step(trainer, ranks))
        if step + 1 == case.saved:
            save(folder / name, training, case.saved, {})
    tensors, repeated = state_of(training), True
    if case.saved:
        done = restore(latest(folder / name), training, {})
        again = one_step(trainer_of(training, ranks, done), ranks)
        tensors_again = state_of(training)
        repeated = again == scalars[-1] and all(
            torch.equal(tensors_again[key], tensor) for key, tensor in tensors.items()
        )
    optimized = [*training.parameters, *training.optimizer_tensors()]
    held = sum(tensor.numel() for tensor in optimized if tensor.dim())
    by_rank = ranks.gathered(tensors) if sharded else [tensors]
    whole = {key: torch.cat([rank[key] for rank in by_rank]) for key in tensors}
    return Result(scalars, whole, ranks.gathered(held), all(ranks.gathered(repeated)))


def trainer_of(training: AlphaFold3Training, ranks: RunRanks, done: int) -> Trainer:
    """Return a trainer on the same examples in every step."""
    examples = batch(ranks.data_rank, ranks.count // ranks.context_ranks)
    return Trainer(
        run_config(backend="reference"),
        training,
        placeholders(lambda: examples),
        entry=training.entry,
        done=done,
    )


def one_step(trainer: Trainer, ranks: RunRanks) -> list[float]:
    """Run a step and return its scalars, the mean over data ranks."""
    for phase in trainer.phases.values():
        phase()
    values: list[float] = ranks.mean(trainer.scalars()).tolist()
    return values


def state_of(training: AlphaFold3Training) -> dict[str, torch.Tensor]:
    """Return this rank's parts of the parameters, averages and moments, by name."""
    names = [name for name, p in training.model.named_parameters() if p.requires_grad]
    tensors: dict[str, torch.Tensor] = dict(training.model.named_parameters())
    for name, p, average in zip(names, training.parameters, training.averages, strict=True):
        state = training.optimizer.state[p]
        tensors |= {f"average {name}": average}
        tensors |= {f"{moment} {name}": state[moment] for moment in ("exp_avg", "exp_avg_sq")}
    parts = {name: getattr(t, "to_local", lambda t=t: t)() for name, t in tensors.items()}
    return {name: part.detach().clone() for name, part in parts.items()}


@contextmanager
def root_left_out() -> Iterator[None]:
    """Wrap the blocks alone, inside the context."""
    wrap = parameter_shards._wrap

    def of_blocks(module: torch.nn.Module, *arguments: Any, **options: Any) -> None:
        if not isinstance(module, parameter_shards.Entry):
            wrap(module, *arguments, **options)

    parameter_shards._wrap = of_blocks
    yield
    parameter_shards._wrap = wrap


def run_rank(rank: int, folder: Path, names: list[str]) -> None:
    """Run those of the named cases that a rank takes part in."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    for name in names:
        case = CASES[name]
        if rank >= case.ranks:
            continue
        if case.ranks > 1:
            store = f"file://{folder}/{name}.store"
            dist.init_process_group("gloo", init_method=store, rank=rank, world_size=case.ranks)
        with nullcontext() if case.root else root_left_out():
            try:
                result: Any = tuple(run(case, folder, name))
            except AssertionError as error:
                result = str(error)
        if rank == 0:
            torch.save(result, folder / f"{name}.pt")
        if case.ranks > 1:
            dist.destroy_process_group()


if __name__ == "__main__":
    # Before the fork, so that one process imports it, and not where the cases alone are wanted.
    from refsys.parallel import parameter_shards

    # So is what the first case imports.
    first, *following = CASES
    run_rank(0, Path(sys.argv[1]), [first])
    arguments = Path(sys.argv[1]), following
    mp.start_processes(run_rank, arguments, nprocs=3, start_method="fork")
