"""What workloads that train on structures share: axes, facts, program.

A subclass says which model is trained, on which fields, and where batches come from.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from refsys.batch import Batch
from refsys.config import PRESETS, ModelConfig, preset
from refsys.costs.flops import FlopCounter, flops_by_component
from refsys.data.batches.construction import ExampleSpec
from refsys.data.batches.crop import CROPS
from refsys.data.batches.examples import Examples
from refsys.data.batches.sampling import EPOCHS
from refsys.data.store.entry_name import RESERVED_ENTRY
from refsys.data.store.store import Example, Store
from refsys.errors import CapacityError, DataError
from refsys.model.chunks import Chunks
from refsys.ops.rounds import shortened
from refsys.parallel.data_parallel import GradientAverage
from refsys.precision import PRECISIONS, precision
from refsys.training.step import ForwardPass, Relabel, Training
from workloads import backends
from workloads.backends import Backends
from workloads.errors import UnsupportedError
from workloads.workload import Axis, Config, Facts, Program, Setting, Value, Workload

SYNTHETIC = RESERVED_ENTRY
# FLOPs of no component: rigid motions and losses.
OTHER = "other"

AXES = (
    Axis(
        name="preset",
        default="tiny",
        meaning="model size",
        choices=tuple(PRESETS),
        titled=True,
    ),
    Axis(name="tokens", default=0, meaning="crop; 0 is the preset's own", minimum=0),
    Axis(
        name="alignment_rows",
        default=0,
        meaning="alignment rows; 0 is the preset's own",
        minimum=0,
    ),
    Axis(
        name="entry",
        default="8vkf",
        meaning=f"prepared structure to train on, or {SYNTHETIC}",
        titled=True,
    ),
    Axis(name="crop", default="contiguous", meaning="kind of crop", choices=CROPS),
    Axis(name="batch", default=1, meaning="examples in a step", minimum=1),
    Axis(
        name="precision",
        default="float32",
        meaning="dtype table",
        choices=tuple(PRECISIONS),
    ),
    backends.AXIS,
    Axis(name="checkpointing", default=True, meaning="recompute blocks in backward"),
    Axis(
        name="chunk_rows",
        default=0,
        meaning="rows at once where intermediates are large; 0 is all",
        minimum=0,
    ),
    Axis(name="dropout", default=True, meaning="dropout as in training"),
    Axis(
        name="cycles",
        default=1,
        meaning="recycling iterations of a step",
        minimum=1,
        maximum=64,
    ),
)


class StructureTraining(Workload):
    """Cases of training a model of the family on one structure."""

    data_parallel = True

    @abstractmethod
    def training(self, config: Config, seed: int, device: torch.device | None = None) -> Training:
        """The case's model and optimizer, without weights."""

    @abstractmethod
    def placeholder(self, config: Config) -> Batch:
        """A batch of the case's shapes, on the default device."""

    @abstractmethod
    def spec(self, config: Config, setting: Setting) -> ExampleSpec:
        """What decides the case's batches on this rank."""

    @abstractmethod
    def synthetic(self, config: Config, setting: Setting) -> Callable[[int], Batch]:
        """The synthetic batch of each step on this rank."""

    def inputs(self, config: Config, store: Path) -> dict[str, str]:
        """See `Workload`."""
        return {} if config["entry"] == SYNTHETIC else entry_inputs(str(config["entry"]), store)

    def source(self, config: Config, setting: Setting) -> "Source":
        """Where batches come from.

        Raises:
            UnsupportedError: the structure is not there, or cannot fill the case's sizes.
        """
        spec = self.spec(config, setting)
        if config["entry"] == SYNTHETIC:
            return Source(self.synthetic(config, setting))
        example = open_entry(str(config["entry"]), setting.store)
        if example.tokens < spec.tokens:
            raise UnsupportedError(
                f"{example.entry} has {example.tokens} tokens, and a crop of {spec.tokens} "
                f"would measure padding; take a longer structure, or entry={SYNTHETIC}"
            )
        examples = Examples(Store(setting.store), [example.entry], spec)

        def batch(step: int) -> Batch:
            try:
                return examples[step]
            except CapacityError as error:
                raise UnsupportedError(str(error)) from None

        return Source(batch, examples.relabelled if spec.whole else None)

    def notes(self, config: Config) -> tuple[str, ...]:
        """What the facts assume."""
        return (
            f"{config['cycles']} recycling iteration(s), of which the last is differentiated",
            "pointwise work, normalization and softmax are not counted as FLOPs",
        )

    def configure(self, values: Mapping[str, object]) -> Config:
        """See `Workload`; sizes of 0 become the preset's own."""
        config = super().configure(values)
        model = model_config(config)
        return config | {
            "tokens": config["tokens"] or model.tokens,
            "alignment_rows": config["alignment_rows"] or model.alignment_rows,
        }

    def labels(self, config: Config) -> dict[str, Value]:
        """See `Workload`."""
        told = {"preset", "tokens", "entry", "backend", "precision"}
        # Some defaults follow from these: they must not make a series of every size.
        usual = self.configure({name: config[name] for name in ("preset", "tokens", "entry")})
        synthetic = config["entry"] == SYNTHETIC
        others = [
            f"{axis.name}={config[axis.name]}"
            for axis in self.axes
            if axis.name not in told and config[axis.name] != usual[axis.name]
        ]
        parts = (config["backend"], config["precision"], *others, *([SYNTHETIC] * synthetic))
        return {
            "tokens": config["tokens"],
            "series": f"{self.name} {config['preset']}",
            "variant": ", ".join(map(str, parts)),
            "synthetic": synthetic,
        }

    def facts(self, config: Config) -> Facts:
        """See `Workload`."""
        with torch.device("meta"):
            training = self.training(config, seed=0)
            batch = self.placeholder(config)
        components = training.model.components()
        counts = {
            name: sum(p.numel() for p in part.parameters()) for name, part in components.items()
        }
        with torch.no_grad(), shortened(), flops_by_component(training.model) as spent:
            training.forward(batch, 0)
        forward = differentiated = sum(spent.values())
        if not training.is_differentiated():
            with torch.no_grad(), shortened(), FlopCounter() as counter:
                training.differentiated(batch)
            differentiated = counter.total
        table = precision(str(config["precision"]))
        # A trained parameter, its average and its two moments are read and written, its gradient
        # is written and read.
        trained = sum(p.numel() for p in training.parameters)
        return Facts(
            parameters=sum(counts.values()),
            components=counts,
            forward_flops=forward,
            forward_flops_by_component={name: spent[name] for name in components}
            | ({OTHER: spent[""]} if spent[""] else {}),
            step_flops=forward + 2 * differentiated,
            arithmetic=str(table.activations).removeprefix("torch."),
            minimum_bytes=trained * table.parameters.itemsize * 10 + batch.nbytes,
            notes=self.notes(config),
        )

    def unsupported_reason(self, config: Config, device: torch.device) -> str | None:
        """See `Workload`."""
        return backends.unsupported_reason(str(config["backend"]), device)

    def build(self, config: Config, setting: Setting) -> "TrainingProgram":
        """See `Workload`."""
        source = self.source(config, setting)
        training = self.training(config, setting.seed, setting.device)
        training.relabel = source.relabel
        training.initialize()
        program = TrainingProgram(training, config, source.batch, setting.device)
        if setting.ranks > 1:
            program.average_over_ranks()
        return program

    def build_abstract(self, config: Config) -> "TrainingProgram":
        """See `Workload`."""
        training = self.training(config, seed=0)
        training.materialize_moments()
        program = TrainingProgram(training, config, lambda _: self.placeholder(config), None)
        program.run("data")
        apart = program.host_phases
        program.phases = tuple(phase for phase in program.phases if phase not in apart)
        return program


class Source(NamedTuple):
    """Where a case's batches come from.

    Attributes:
        batch: The batch of a step.
        relabel: Permutes its labels; None if there is nothing to permute.
    """

    batch: Callable[[int], Batch]
    relabel: Relabel | None = None


class TrainingProgram(Program):
    """Training on one device: each step draws its own crop and alignment rows."""

    def __init__(
        self,
        training: Training,
        config: Config,
        source: Callable[[int], Batch],
        device: torch.device | None,
    ) -> None:
        self.forward_phases = training.forward_phases
        self.host_phases = ("data", *training.host_phases)
        self.phases = ("data", *self.forward_phases, "backward", "optimizer")
        self._training = training
        self._backends = Backends(str(config["backend"]))
        self._source = source
        self._device = device
        self._step = -1
        self._batch: Batch | None = None
        self._pass: ForwardPass | None = None
        self._loss: Tensor | None = None
        self._average: GradientAverage | None = None

    def run(self, phase: str) -> None:
        """See `Program`."""
        with self._backends():
            if phase in self.forward_phases:
                self._forward(phase)
            else:
                getattr(self, f"_{phase}")()

    def average_over_ranks(self) -> None:
        """Gives the program a phase that ends with the gradients of all ranks' examples."""
        self._average = GradientAverage(self._training.parameters)
        before = self.phases.index("optimizer")
        self.phases = (*self.phases[:before], "all_reduce", *self.phases[before:])

    def _data(self) -> None:
        self._step += 1
        self._batch = None
        batch = self._source(self._step)
        self._batch = batch.to(self._device) if self._device else batch

    def _forward(self, phase: str) -> None:
        if phase == self.forward_phases[0]:
            assert self._batch is not None, "the data phase comes first"
            self._loss = None
            self._pass = self._training.begin(self._batch, max(self._step, 0))
        assert self._pass is not None, "the first forward phase comes first"
        self._pass.run(phase)
        if phase == self.forward_phases[-1]:
            self._loss, self._pass = self._pass.loss, None

    def _backward(self) -> None:
        assert self._loss is not None, "the forward phases come first"
        self._training.backward(self._loss)
        self._loss = self._loss.detach()

    def _all_reduce(self) -> None:
        assert self._average is not None, "one rank has nothing to average"
        self._average.wait()

    def _optimizer(self) -> None:
        self._training.update(self._step)

    @property
    def module(self) -> nn.Module:
        """See `Program`."""
        return self._training.model

    def tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """See `Program`."""
        return {
            "parameters": list(self._training.model.parameters()),
            "optimizer": self._training.optimizer_tensors(),
            "inputs": list(self._batch.values()) if self._batch else [],
        }

    def outcome(self) -> dict[str, float]:
        """See `Program`; sizes are those of the last batch without its padding."""
        if self._loss is None or self._batch is None:
            return {}
        rows, tokens = self._batch["alignment_row_mask"], self._batch["token_mask"]
        return {
            "loss": float(self._loss),
            "tokens": float(tokens.sum(1).double().mean()),
            "alignment_rows": float(rows.sum(2).double().mean()),
        }

    def implementations(self) -> dict[str, str]:
        """See `Program`."""
        return self._backends.implementations()

    def notes(self) -> dict[str, Any]:
        """See `Program`."""
        return self._backends.notes()


def model_config(config: Config) -> ModelConfig:
    """The preset of a case."""
    return preset(str(config["preset"]))


def spec_options(config: Config, setting: Setting) -> dict[str, Any]:
    """The options of `ExampleSpec` that the shared axes choose, of the batch of all ranks."""
    return {
        "tokens": int(config["tokens"]),
        "alignment_rows": int(config["alignment_rows"]),
        "batch": int(config["batch"]) * setting.ranks,
        "crop": str(config["crop"]),
        "cycles": int(config["cycles"]),
        "sampling": EPOCHS,
        "seed": setting.seed,
    }


def training_options(config: Config, seed: int, device: torch.device | None) -> dict[str, Any]:
    """The options of `Training` that the shared axes choose."""
    return {
        "seed": seed,
        "cycles": int(config["cycles"]),
        "checkpointing": bool(config["checkpointing"]),
        # The trunk alone has no samples.
        "chunks": Chunks(
            rows=int(config["chunk_rows"]), samples=int(config.get("chunk_samples", 0))
        ),
        "dropout": bool(config["dropout"]),
        "device": device,
    }


def entry_inputs(entry: str, store: Path) -> dict[str, str]:
    """The records of a prepared structure, by what each is, their checksums compared.

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
    """A prepared structure.

    Raises:
        UnsupportedError: it is not prepared.
    """
    try:
        return Store(store).open(entry)
    except DataError as error:
        raise UnsupportedError(str(error)) from None
