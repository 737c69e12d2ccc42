"""Workloads that train a model of the family on structures: configuration, costs and program.

A case is a `RunConfig`, as `foldperf train` has it, and its program is the trainer of that run. A
subclass chooses the model and the axes.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from refsys.config import ModelConfig
from refsys.costs.flops import FlopCounter, flops_by_component, parameter_counts
from refsys.data.store.store import Example, Store
from refsys.errors import ArgumentError, CapacityError, DataError
from refsys.ops.rounds import shortened
from refsys.parallel import mesh
from refsys.precision import precision
from refsys.run_config import ParallelOptions, RunConfig
from refsys.training.build import (
    build_abstract_trainer,
    build_trainer,
    build_training,
    placeholder_batch,
)
from refsys.training.loading import SYNTHETIC, Batches, is_synthetic
from refsys.training.step import Training
from refsys.training.trainer import Trainer
from workloads import backends
from workloads.backends import Backends
from workloads.errors import UnsupportedError, WorkloadError
from workloads.workload import ExecutionContext, Program, StaticCosts, Value, Workload

# FLOPs of no component: rigid motions and losses.
OTHER = "other"


@dataclass(frozen=True, kw_only=True, slots=True)
class StructureCase:
    """Configuration of a case.

    Attributes:
        run: Training run that is measured.
    """

    run: RunConfig = field(default_factory=RunConfig)


Case = TypeVar("Case", bound=StructureCase)


class StructureTraining(Workload[Case]):
    """Cases of training a model of the family on one structure.

    Sizes are fixed: every crop is full, and each step has the same recycling iterations.
    """

    configuration = StructureCase
    model: ClassVar[str]
    defaults: ClassVar[Mapping[str, Value]] = {
        "crop": "contiguous",
        "sampling": "epochs",
        "cycles": 1,
        "sample_cycles": False,
        "sample_depth": False,
        "bucketed": False,
        "backend": "reference",
    }
    data_parallel = True

    def entries(self, config: Case) -> frozenset[str]:
        """See `Workload`."""
        return frozenset(config.run.data.entries) - {SYNTHETIC}

    def inputs(self, config: Case, store: Path) -> dict[str, str]:
        """See `Workload`."""
        run = config.run
        if is_synthetic(run):
            return {}
        return {
            name: content
            for entry in run.data.entries
            for name, content in entry_inputs(entry, store).items()
        }

    def notes(self, config: Case) -> tuple[str, ...]:
        """Return the assumptions of the costs."""
        return (
            f"{config.run.model.cycles} recycling iteration(s), of which the last is "
            "differentiated",
            "pointwise work, normalization and softmax are not counted as FLOPs",
        )

    def configure(self, values: Mapping[str, object]) -> Case:
        """See `Workload`; sizes of 0 become those that they stand for."""
        config = super().configure(values)
        try:
            is_synthetic(config.run)
        except ArgumentError as error:
            raise WorkloadError(str(error)) from None
        if not config.run.data.entries:
            raise WorkloadError("entry names no structure")
        run = config.run.resolved()
        return replace(config, run=replace(run, model=replace(run.model, model=self.model)))

    def labels(self, config: Case) -> dict[str, Value]:
        """See `Workload`."""
        run, values = config.run, self.values(config)
        # Some defaults follow from these: they must not make a series of every size.
        determined = {name: values[name] for name in ("preset", "tokens", "entry")}
        usual = self.values(self.configure(determined))
        named = (*determined, "backend", "precision")
        synthetic = is_synthetic(run)
        parts = (
            run.backend,
            run.precision,
            *self.chosen(config, usual, named, titled=False),
            *([SYNTHETIC] * synthetic),
        )
        return {
            "tokens": run.data.tokens,
            "series": f"{self.name} {run.model.preset}",
            "variant": ", ".join(parts),
            "synthetic": synthetic,
        }

    def static_costs(self, config: Case) -> StaticCosts:
        """See `Workload`."""
        run = config.run
        # Neither chunks nor ranks change the costs, and many chunks take long to count.
        whole = replace(
            run,
            memory=replace(run.memory, chunk_rows=0, chunk_samples=0),
            parallel=ParallelOptions(),
        )
        with FakeTensorMode():
            return self._static_costs(config, self.training(replace(config, run=whole)), whole)

    def parameters(self, config: Case) -> Mapping[str, int]:
        """See `Workload`."""
        with FakeTensorMode():
            return parameter_counts(self.training(config).model)

    def _static_costs(self, config: Case, training: Training, run: RunConfig) -> StaticCosts:
        """Return the costs of a case from a model of fake tensors that computes all at once."""
        batch = placeholder_batch(run)
        counts = parameter_counts(training.model)
        with torch.no_grad(), shortened(), flops_by_component(training.model) as spent:
            training.forward(batch, 0)
        forward = differentiated = sum(spent.values())
        if not training.is_differentiated():
            with torch.no_grad(), shortened(), FlopCounter() as counter:
                training.differentiated(batch)
            differentiated = counter.total
        # An equal part of each example, to rounding.
        ranks = config.run.parallel.context_ranks
        forward, differentiated = forward // ranks, differentiated // ranks
        spent = Counter({name: flops // ranks for name, flops in spent.items()})
        table = precision(run.precision)
        # A trained parameter, its average and its two moments are read and written, its gradient
        # is written and read.
        trained = sum(p.numel() for p in training.parameters)
        return StaticCosts(
            parameters=sum(counts.values()),
            components=counts,
            forward_flops=forward,
            forward_flops_by_component={name: spent[name] for name in counts}
            | ({OTHER: spent[""]} if spent[""] else {}),
            step_flops=forward + 2 * differentiated,
            arithmetic=str(table.activations).removeprefix("torch."),
            minimum_bytes=trained * table.parameters.itemsize * 10 + batch.nbytes,
            notes=self.notes(config),
        )

    def context_ranks(self, config: Case) -> int:
        """See `Workload`."""
        return config.run.parallel.context_ranks

    def examples(self, config: Case) -> int:
        """See `Workload`."""
        return config.run.data.batch

    def exchange_chunks(self, config: Case) -> int:
        """See `Workload`."""
        return config.run.parallel.exchange_chunks

    def on_data_ranks(self, config: Case, ranks: int) -> Case:
        """See `Workload`."""
        run = config.run
        return replace(
            config,
            run=replace(
                run,
                data=replace(run.data, batch=run.data.batch * ranks),
                parallel=replace(run.parallel, data_ranks=ranks),
            ),
        )

    def unsupported_reason(self, config: Case, device: torch.device) -> str | None:
        """See `Workload`."""
        return backends.unsupported_reason(config.run.backend, device)

    def training(self, config: Case, device: torch.device | None = None) -> Training:
        """Return the case's model and optimizer, without weights."""
        return build_training(config.run, device, self.model_config(config))

    def model_config(self, config: Case) -> ModelConfig:
        """Return the hyper-parameters of the case's model."""
        return config.run.preset

    def batches(self, config: Case, setting: ExecutionContext) -> Batches:
        """Return the batches of this rank.

        Raises:
            UnsupportedError: the structure is not prepared, or is smaller than a crop.
        """
        run = config.run
        for entry in () if is_synthetic(run) else run.data.entries:
            example = open_entry(entry, setting.store)
            if example.tokens < run.data.tokens:
                raise UnsupportedError(
                    f"{example.entry} has {example.tokens} tokens, and a crop of "
                    f"{run.data.tokens} would measure padding; take a longer structure, or "
                    f"entry={SYNTHETIC}"
                )
        rank = setting.rank // run.parallel.context_ranks
        return Batches(run, Store(setting.store), setting.device, rank=rank)

    def build(self, config: Case, setting: ExecutionContext) -> "TrainingProgram":
        """See `Workload`; the batch of a step has the case's examples for each rank."""
        case = self._on_all_ranks(config, setting)
        ranks = mesh.join(case.run.parallel, setting.device, run=case.run.identity())
        batches = self.batches(case, setting)
        training = self.training(case, setting.device)
        training.initialize()
        if case.run.parallel.shard_parameters and ranks.count > 1:
            training.shard(ranks)
        return TrainingProgram(build_trainer(case.run, training, batches, ranks))

    def _on_all_ranks(self, config: Case, setting: ExecutionContext) -> Case:
        """Return the case of all ranks together.

        Raises:
            UnsupportedError: the ranks are no multiple of the context ranks.
        """
        context = config.run.parallel.context_ranks
        ranks, rest = divmod(setting.ranks, context)
        if rest:
            raise UnsupportedError(
                f"context_ranks={context} needs a multiple of as many ranks, not {setting.ranks}"
            )
        case = self.on_data_ranks(config, ranks)
        return replace(case, run=replace(case.run, seed=setting.seed))

    def build_abstract(self, config: Case) -> "TrainingProgram":
        """See `Workload`; the phases of the host are left out."""
        program = TrainingProgram(build_abstract_trainer(config.run, self.training(config)))
        program.run("data")
        apart = program.host_phases
        program.phases = tuple(phase for phase in program.phases if phase not in apart)
        return program


class TrainingProgram(Program):
    """A trainer as a program that is measured: each step has a batch of its own."""

    def __init__(self, trainer: Trainer) -> None:
        self.forward_phases = trainer.forward_phases
        self.host_phases = trainer.host_phases
        self.phases = tuple(trainer.phases)
        self.trainer = trainer
        self._backends = Backends(trainer.config.backend)

    def run(self, phase: str) -> None:
        """See `Program`.

        Raises:
            UnsupportedError: no crop of the structure fits the sizes of the case.
        """
        try:
            self.trainer.phases[phase]()
        except CapacityError as error:
            raise UnsupportedError(str(error)) from None

    @property
    def module(self) -> nn.Module:
        """See `Program`."""
        return self.trainer.training.model

    def tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """See `Program`."""
        batch, training = self.trainer.batch, self.trainer.training
        return {
            "parameters": list(training.model.parameters()),
            "optimizer": training.optimizer_tensors(),
            "inputs": list(batch.values()) if batch else [],
        }

    def outcome(self) -> dict[str, float]:
        """See `Program`; sizes are those of the last batch without its padding."""
        loss, batch = self.trainer.loss, self.trainer.batch
        if loss is None or batch is None:
            return {}
        rows, tokens = batch["alignment_row_mask"], batch["token_mask"]
        return {
            "loss": float(loss),
            "tokens": float(tokens.sum(1).double().mean()),
            "alignment_rows": float(rows.sum(2).double().mean()),
        }

    def implementations(self) -> dict[str, str]:
        """See `Program`."""
        return self._backends.implementations()

    def notes(self) -> dict[str, Any]:
        """See `Program`."""
        return self._backends.notes()


def entry_inputs(entry: str, store: Path) -> dict[str, str]:
    """Return the records of a prepared structure by kind, after comparing their checksums.

    Raises:
        UnsupportedError: it is not prepared, or damaged.
    """
    example = open_entry(entry, store)
    try:
        example.verify()
    except DataError as error:
        raise UnsupportedError(f"{error}; run 'foldperf prepare' again") from None
    return {f"{example.entry} {what}": name for what, name in example.records().items()}


def open_entry(entry: str, store: Path) -> Example:
    """Return a prepared structure.

    Raises:
        UnsupportedError: it is not prepared.
    """
    try:
        return Store(store).open(entry)
    except DataError as error:
        raise UnsupportedError(str(error)) from None
