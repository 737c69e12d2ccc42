"""The language model in training: what AlphaFold 3 is compared with, at its best and naively."""

from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from refsys.parallel.data_parallel import GradientAverage
from refsys.precision import PRECISIONS, precision
from workloads.errors import UnsupportedError, WorkloadError
from workloads.flops import flops_by_component
from workloads.language_model.losses import usual_rows
from workloads.language_model.model import FAIR, NAIVE, VARIANTS
from workloads.language_model.presets import PRESETS, LanguageModelConfig
from workloads.language_model.training import LanguageModelTraining, Options, synthetic_text
from workloads.workload import Axis, Config, Facts, Program, Setting, Value, Workload

_BLOOM = {"preset": "bloom-560m", "precision": "bfloat16", "tokens": 768}


class TransformerWorkload(Workload):
    """Cases of training a decoder-only transformer on synthetic text."""

    name = "transformer"
    summary = "BLOOM-560M, or a Llama of its size, in training: the language model to compare with"
    data_parallel = True
    axes = (
        Axis(
            name="preset",
            default="bloom-tiny",
            meaning="family and size",
            choices=tuple(PRESETS),
            titled=True,
        ),
        Axis(name="tokens", default=0, meaning="of a sequence; 0 is the preset's own", minimum=0),
        Axis(name="batch", default=1, meaning="sequences in a step", minimum=1),
        Axis(
            name="variant",
            default=FAIR,
            meaning="fair: fused attention, chunked loss, fused AdamW; naive: the strawman",
            choices=VARIANTS,
            titled=True,
        ),
        Axis(name="precision", default="float32", meaning="dtype table", choices=tuple(PRECISIONS)),
        Axis(
            name="backend",
            default="eager",
            meaning="whether blocks are compiled",
            choices=("eager", "compiled"),
        ),
        Axis(name="checkpointing", default=False, meaning="recompute blocks in backward"),
        Axis(
            name="loss_rows",
            default=0,
            meaning="tokens whose logits exist at once, if fair; 0 is a quarter, at most 256",
            minimum=0,
        ),
    )
    selections = {  # noqa: RUF012 (read, never written)
        "exact": (
            {**_BLOOM, "checkpointing": [False, True]},
            {**_BLOOM, "variant": NAIVE},
            {**_BLOOM, "preset": "llama-560m"},
        ),
        "timing": ({"preset": "bloom-tiny"},),
        "quick": ({"preset": "bloom-tiny", "tokens": [64, 128]},),
    }

    def configure(self, values: Mapping[str, object]) -> Config:
        """See `Workload`; sizes of 0 become the preset's own."""
        config = super().configure(values)
        tokens = int(config["tokens"]) or model_config(config).tokens
        rows = int(config["loss_rows"])
        if rows and config["variant"] == NAIVE:
            raise WorkloadError(f"loss_rows={rows} is for variant=fair; naive has all logits")
        return config | {"tokens": tokens}

    def labels(self, config: Config) -> dict[str, Value]:
        """See `Workload`."""
        told = {"preset", "tokens", "variant", "precision"}
        others = [
            f"{axis.name}={config[axis.name]}"
            for axis in self.axes
            if axis.name not in told and config[axis.name] != axis.default
        ]
        variant = "naive (strawman)" if config["variant"] == NAIVE else FAIR
        return {
            "tokens": config["tokens"],
            "series": f"{self.name} {config['preset']}",
            "variant": ", ".join([variant, str(config["precision"]), *others]),
            "synthetic": True,
        }

    def notes(self, config: Config) -> tuple[str, ...]:
        """What the facts assume."""
        model = model_config(config)
        blocks, width, tokens = model.blocks, model.width, config["tokens"]
        naive = config["variant"] == NAIVE
        return (
            "a step is 6 N + 12 L d s FLOPs a token, with N parameters in matrix products (the "
            f"tied head, not the embedding's lookup), L={blocks}, d={width}, s={tokens}",
            "attention is counted in full, not halved for its causal mask; neither recomputation "
            "nor pointwise work, normalization and softmax are counted",
            "naive is a strawman: all logits exist and the optimizer is a loop"
            if naive
            else "fair: fused attention, chunked cross-entropy, fused AdamW",
            "random tokens of equal length, no padding, no dropout",
        )

    def facts(self, config: Config) -> Facts:
        """See `Workload`; what is counted is the plain computation, whatever the variant."""
        with torch.device("meta"):
            training = self.training(config, variant=NAIVE)
            text = torch.empty(int(config["batch"]), int(config["tokens"]) + 1, dtype=torch.int64)
        components = training.model.components()
        counts = {
            name: sum(p.numel() for p in part.parameters()) for name, part in components.items()
        }
        with torch.no_grad(), flops_by_component(training.model) as spent:
            training.loss(text)
        table = precision(str(config["precision"]))
        parameters, forward = sum(counts.values()), sum(spent.values())
        # A parameter and its two moments are read and written, its gradient is written and read.
        moved = parameters * table.parameters.itemsize * 8
        return Facts(
            parameters=parameters,
            components=counts,
            forward_flops=forward,
            forward_flops_by_component={name: spent[name] for name in components},
            step_flops=3 * forward,
            arithmetic=str(table.activations).removeprefix("torch."),
            minimum_bytes=moved + text.numel() * text.element_size(),
            notes=self.notes(config),
        )

    def training(
        self, config: Config, device: torch.device | None = None, variant: str = ""
    ) -> LanguageModelTraining:
        """The case's model and optimizer, without weights; of another variant if one is given."""
        tokens = int(config["batch"]) * int(config["tokens"])
        options = Options(
            tokens=int(config["tokens"]),
            variant=variant or str(config["variant"]),
            rows=int(config["loss_rows"]) or usual_rows(tokens),
            checkpointing=bool(config["checkpointing"]),
            compiled=config["backend"] == "compiled",
        )
        table = precision(str(config["precision"]))
        return LanguageModelTraining(model_config(config), table, options, device=device)

    def build(self, config: Config, setting: Setting) -> "TransformerProgram":
        """See `Workload`."""
        if setting.device.type == "cuda" and config["variant"] == FAIR:
            _check_triton()
        training = self.training(config, setting.device)
        training.initialize(setting.seed)
        batch = int(config["batch"])

        def text(step: int) -> Tensor:
            return synthetic_text(
                setting.seed,
                step,
                vocabulary=model_config(config).vocabulary,
                tokens=int(config["tokens"]),
                batch=batch,
                first=setting.rank * batch,
            ).to(setting.device)

        program = TransformerProgram(training, text)
        if setting.ranks > 1:
            program.average_over_ranks()
        return program

    def build_abstract(self, config: Config) -> "TransformerProgram":
        """See `Workload`."""
        training = self.training(config)
        training.materialize_moments()
        shape = int(config["batch"]), int(config["tokens"]) + 1
        program = TransformerProgram(training, lambda _: torch.zeros(shape, dtype=torch.int64))
        program.run("data")
        program.phases = tuple(p for p in program.phases if p not in program.host_phases)
        return program


class TransformerProgram(Program):
    """Training on one device: each step has its own text."""

    phases: tuple[str, ...] = ("data", "forward", "backward", "optimizer")

    def __init__(self, training: LanguageModelTraining, source: Callable[[int], Tensor]) -> None:
        self._training = training
        self._source = source
        self._step = -1
        self._text: Tensor | None = None
        self._loss: Tensor | None = None
        self._average: GradientAverage | None = None
        self._ran: dict[str, str] = {}

    def average_over_ranks(self) -> None:
        """Gives the program a phase that ends with the gradients of all ranks' examples."""
        self._average = GradientAverage(self._training.parameters)
        before = self.phases.index("optimizer")
        self.phases = (*self.phases[:before], "all_reduce", *self.phases[before:])

    def run(self, phase: str) -> None:
        """See `Program`."""
        getattr(self, f"_{phase}")()

    def _data(self) -> None:
        self._step += 1
        self._text = None
        self._text = self._source(self._step)

    def _forward(self) -> None:
        assert self._text is not None, "the data phase comes first"
        self._loss = None
        self._loss = self._training.loss(self._text)
        self._ran = self._training.implementations()

    def _backward(self) -> None:
        assert self._loss is not None, "the forward phase comes first"
        self._loss.backward()
        self._loss = self._loss.detach()

    def _all_reduce(self) -> None:
        assert self._average is not None, "one rank has nothing to average"
        self._average.wait()

    def _optimizer(self) -> None:
        self._training.update()

    @property
    def module(self) -> nn.Module:
        """See `Program`."""
        return self._training.model

    def tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """See `Program`."""
        return {
            "parameters": self._training.parameters,
            "optimizer": self._training.optimizer_tensors(),
            "constants": self._training.model.positions.constants,
            "inputs": [] if self._text is None else [self._text],
        }

    def outcome(self) -> dict[str, float]:
        """See `Program`."""
        if self._loss is None or self._text is None:
            return {}
        return {"loss": float(self._loss), "tokens": float(self._text.shape[1] - 1)}

    def implementations(self) -> dict[str, str]:
        """See `Program`."""
        ran, self._ran = self._ran, {}
        return ran


def model_config(config: Config) -> LanguageModelConfig:
    """The preset of a case."""
    return PRESETS[str(config["preset"])]


def _check_triton() -> None:
    if find_spec("triton") is None:
        raise UnsupportedError(
            "FlexAttention is compiled by Triton, which is not installed; "
            f"install it, or take variant={NAIVE}"
        )
