"""The AlphaFold 3 trunk in training: input embedding, MSA module, Pairformer, heads."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from refsys import ops
from refsys.batch import Batch
from refsys.config import PRESETS, ModelConfig, preset
from refsys.data.crop import CROPS
from refsys.data.examples import BONDS_PER_TOKEN, Examples, ExampleSpec
from refsys.data.store import RESERVED_ENTRY, Example, Store
from refsys.data.synthetic import synthetic_batch
from refsys.errors import DataError
from refsys.ops.backend import BACKENDS
from refsys.precision import PRECISIONS, precision
from refsys.training_step import TrunkTraining
from workloads.errors import UnsupportedError
from workloads.workload import Axis, Config, Facts, Program, Setting, Value, Workload

SYNTHETIC = RESERVED_ENTRY


class TrunkWorkload(Workload):
    """Cases of trunk training."""

    name = "alphafold3-trunk"
    summary = "the AlphaFold 3 trunk in training: MSA module, Pairformer, distogram"
    axes = (
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
        Axis(
            name="backend",
            default="reference",
            meaning="implementation of the operators",
            choices=("default", *BACKENDS),
        ),
        Axis(name="checkpointing", default=True, meaning="recompute blocks in backward"),
        Axis(name="dropout", default=True, meaning="dropout as in training"),
        Axis(
            name="cycles",
            default=1,
            meaning="recycling iterations of a step",
            minimum=1,
            maximum=64,
        ),
    )

    def configure(self, values: Mapping[str, object]) -> Config:
        """See `Workload`; sizes of 0 become the preset's own."""
        config = super().configure(values)
        model = _model(config)
        return config | {
            "tokens": config["tokens"] or model.tokens,
            "alignment_rows": config["alignment_rows"] or model.alignment_rows,
        }

    def labels(self, config: Config) -> dict[str, Value]:
        """See `Workload`."""
        told = {"preset", "tokens", "entry", "backend", "precision"}
        usual = self.configure({"preset": config["preset"]})
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
            training = _training(config, seed=0)
            batch = _placeholder(config)
        components = training.model.components()
        counts = {
            name: sum(p.numel() for p in part.parameters()) for name, part in components.items()
        }
        by_module = _count_flops(training, batch)
        forward = sum(by_module["Global"].values())
        differentiated = forward
        if training.cycles > 1:
            # All cycles but the last run without gradients.
            training.cycles = 1
            differentiated = sum(_count_flops(training, batch)["Global"].values())
        places = {module: path for path, module in training.model.named_modules()}
        by_component = {
            name: sum(
                sum(by_module.get(f"Trunk.{places[module]}", {}).values())
                for module in part.children()
            )
            for name, part in components.items()
        }
        parameters = sum(counts.values())
        table = precision(str(config["precision"]))
        # A trained parameter and its two moments read and written, its gradient written and read.
        trained = sum(p.numel() for p in training.parameters)
        minimum = trained * table.parameters.itemsize * 8 + batch.nbytes
        return Facts(
            parameters=parameters,
            components=counts,
            forward_flops=forward,
            forward_flops_by_component=by_component,
            step_flops=forward + 2 * differentiated,
            arithmetic=str(table.activations).removeprefix("torch."),
            minimum_bytes=minimum,
            notes=(
                f"{config['cycles']} recycling iteration(s), of which the last is differentiated",
                "pointwise work, normalization and softmax are not counted as FLOPs",
            ),
        )

    def inputs(self, config: Config, store: Path) -> dict[str, str]:
        """See `Workload`."""
        if config["entry"] == SYNTHETIC:
            return {}
        example = _open(config, store)
        try:
            example.verify()
        except DataError as error:
            raise UnsupportedError(f"{error}; run 'foldperf prepare' again") from None
        return {f"{example.entry} {what}": name for what, name in example.records().items()}

    def build(self, config: Config, setting: Setting) -> "TrunkProgram":
        """See `Workload`."""
        spec = _spec(config, setting.seed)
        if config["entry"] == SYNTHETIC:
            source: Callable[[int], Batch] = lambda step: synthetic_batch(spec, step)  # noqa: E731
        else:
            example = _open(config, setting.store)
            if example.tokens < spec.tokens:
                raise UnsupportedError(
                    f"{example.entry} has {example.tokens} tokens, and a crop of {spec.tokens} "
                    f"would measure padding; take a longer structure, or entry={SYNTHETIC}"
                )
            source = Examples(Store(setting.store), [example.entry], spec).__getitem__
        training = _training(config, setting.seed, setting.device)
        training.initialize()
        return TrunkProgram(training, config, source, setting.device)

    def build_abstract(self, config: Config) -> "TrunkProgram":
        """See `Workload`."""
        training = _training(config, seed=0)
        training.materialize_moments()
        program = TrunkProgram(training, config, lambda _: _placeholder(config), None)
        program.run("data")
        program.phases = program.phases[1:]
        return program


class TrunkProgram(Program):
    """Trunk training on one device: each step draws its own crop and alignment rows."""

    def __init__(
        self,
        training: TrunkTraining,
        config: Config,
        source: Callable[[int], Batch],
        device: torch.device | None,
    ) -> None:
        self.phases = ("data", "forward", "backward", "optimizer")
        self._training = training
        self._backend = str(config["backend"])
        self._source = source
        self._device = device
        self._step = -1
        self._batch: Batch | None = None
        self._loss: Tensor | None = None
        self._fallbacks_before = ops.fallbacks()
        self._calls_before = ops.calls()

    def run(self, phase: str) -> None:
        """See `Program`."""
        with self._backends():
            getattr(self, f"_{phase}")()

    def _backends(self) -> AbstractContextManager[None]:
        return nullcontext() if self._backend == "default" else ops.use_backend(self._backend)

    def _data(self) -> None:
        self._step += 1
        self._batch = None
        batch = self._source(self._step)
        self._batch = batch.to(self._device) if self._device else batch

    def _forward(self) -> None:
        assert self._batch is not None, "the data phase comes first"
        self._loss = self._training.forward(self._batch, max(self._step, 0))

    def _backward(self) -> None:
        assert self._loss is not None, "the forward phase comes first"
        self._training.backward(self._loss)
        self._loss = self._loss.detach()

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
            "alignment_rows": float(rows.sum(1).double().mean()),
        }

    def implementations(self) -> dict[str, str]:
        """See `Program`."""
        now = ops.calls()
        new, self._calls_before = now - self._calls_before, now
        found: dict[str, str] = {}
        for operator, backend in sorted(new):
            found[operator] = f"{found[operator]}, {backend}" if operator in found else backend
        return found

    def notes(self) -> dict[str, Any]:
        """See `Program`."""
        new = ops.fallbacks() - self._fallbacks_before
        fallen = [fallback._asdict() | {"calls": calls} for fallback, calls in sorted(new.items())]
        return {"fallbacks": fallen}


def _open(config: Config, store: Path) -> Example:
    try:
        return Store(store).open(str(config["entry"]))
    except DataError as error:
        raise UnsupportedError(str(error)) from None


def _count_flops(training: TrunkTraining, batch: Batch) -> dict[str, dict[Any, int]]:
    """FLOPs of a forward pass, by module path and operator; ``Global`` is all of it."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        training.forward(batch, step=0)
    return dict(counter.get_flop_counts())


def _model(config: Config) -> ModelConfig:
    return preset(str(config["preset"]))


def _spec(config: Config, seed: int) -> ExampleSpec:
    return ExampleSpec(
        tokens=int(config["tokens"]),
        alignment_rows=int(config["alignment_rows"]),
        batch=int(config["batch"]),
        crop=str(config["crop"]),
        seed=seed,
    )


def _training(config: Config, seed: int, device: torch.device | None = None) -> TrunkTraining:
    return TrunkTraining(
        _model(config),
        precision(str(config["precision"])),
        seed=seed,
        cycles=int(config["cycles"]),
        checkpointing=bool(config["checkpointing"]),
        dropout=bool(config["dropout"]),
        device=device,
    )


def _placeholder(config: Config) -> Batch:
    tokens = int(config["tokens"])
    return Batch.empty(
        batch=int(config["batch"]),
        token=tokens,
        alignment_row=int(config["alignment_rows"]),
        bond=tokens * BONDS_PER_TOKEN,
    )
