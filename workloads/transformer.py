"""The language model in training: what AlphaFold 3 is compared with, at its best and naively."""

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from refsys.config import PRESETS as ALPHAFOLD3_PRESETS
from refsys.costs.flops import flops_by_component
from refsys.precision import PRECISIONS, precision
from workloads.alphafold3 import AlphaFold3Workload
from workloads.errors import UnsupportedError, WorkloadError
from workloads.language_model import matching
from workloads.language_model.losses import usual_rows
from workloads.language_model.model import FAIR, NAIVE, VARIANTS
from workloads.language_model.presets import PRESETS, LanguageModelConfig
from workloads.language_model.program import LanguageModelProgram
from workloads.language_model.training import LanguageModelTraining, Options, synthetic_text
from workloads.predicted_costs import predicted_costs
from workloads.structure_training import SYNTHETIC
from workloads.workload import Axis, Config, Facts, Setting, Value, Workload

_ALPHAFOLD3 = AlphaFold3Workload()
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
        Axis(
            name="tokens",
            default=0,
            meaning="of the protein compared with, and of a sequence if equal=tokens; "
            "0 is the preset's own",
            minimum=0,
        ),
        Axis(
            name="equal",
            default=matching.TOKENS,
            meaning="what a sequence has in common with a protein of so many tokens in alphafold3",
            choices=matching.KINDS,
        ),
        Axis(
            name="against",
            default="",
            meaning="preset of alphafold3 compared with; nothing is the one of the preset's size",
            choices=("", *ALPHAFOLD3_PRESETS),
        ),
        Axis(
            name="sequence",
            default=0,
            meaning="tokens of a sequence, which follow from the others; 0 is what they say",
            minimum=0,
        ),
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
            meaning="tokens whose logits exist at once, if fair; 0 is half of them, at most 256",
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
        """See `Workload`; the length of a sequence follows from the comparison.

        Raises:
            WorkloadError: an axis is unknown, a value does not fit, or no length is as asked.
        """
        config = super().configure(values)
        model = model_config(config)
        config["tokens"] = config["tokens"] or model.tokens
        config["against"] = config["against"] or model.counterpart
        if config["loss_rows"] and config["variant"] == NAIVE:
            raise WorkloadError(
                f"loss_rows={config['loss_rows']} is for variant=fair; naive has all logits"
            )
        asked = config["sequence"]
        config["sequence"] = self._sequence(config | {"sequence": 0})
        if asked not in {0, config["sequence"]}:
            raise WorkloadError(
                f"sequence={asked}, but equal={config['equal']} makes it {config['sequence']}; "
                "leave it out"
            )
        return config

    def _sequence(self, config: Config) -> int:
        """The length of a sequence that the comparison asks for."""
        if config["equal"] == matching.TOKENS:
            return int(config["tokens"])
        other = counterpart(config)
        if config["equal"] == matching.FLOPS:
            flops, batch = model_config(config).step_flops, int(config["batch"])
            target = matching.step_flops(_ALPHAFOLD3, other)
            return matching.sequence_of_flops(lambda tokens: batch * flops(tokens), target)

        @cache
        def peak(tokens: int) -> int:
            return predicted_costs(self, config | {"sequence": tokens}).peak.nbytes

        limit = matching.peak_bytes(_ALPHAFOLD3, other)
        return matching.kept("sequence", self, config, lambda: matching.longest_within(peak, limit))

    def title(self, config: Config) -> str:
        """See `Workload`; what follows from the rest is not said."""
        usual = self.configure({"preset": config["preset"], "tokens": config["tokens"]})
        chosen = [
            f"{axis.name}={config[axis.name]}"
            for axis in self.axes
            if axis.titled or axis.name == "tokens" or config[axis.name] != usual[axis.name]
        ]
        return " ".join([self.name, *chosen])

    def labels(self, config: Config) -> dict[str, Value]:
        """See `Workload`."""
        told = {"preset", "tokens", "variant", "precision", "equal", "against", "sequence"}
        others = [
            f"{axis.name}={config[axis.name]}"
            for axis in self.axes
            if axis.name not in told and config[axis.name] != axis.default
        ]
        variant = "naive (strawman)" if config["variant"] == NAIVE else FAIR
        return {
            "tokens": config["tokens"],
            "series": f"{self.name} {config['preset']}",
            "variant": ", ".join([variant, str(config["precision"]), comparison(config), *others]),
            "synthetic": True,
        }

    def notes(self, config: Config) -> tuple[str, ...]:
        """What the facts assume."""
        model = model_config(config)
        blocks, width, tokens = model.blocks, model.width, config["sequence"]
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
            *self._residual(config),
        )

    def _residual(self, config: Config) -> tuple[str, ...]:
        """How near the sequence comes to what it was chosen by."""
        if config["equal"] == matching.TOKENS:
            return ()
        chosen = f"{config['sequence']:,} tokens: {comparison(config)} at {config['tokens']} tokens"
        if config["equal"] == matching.MEMORY:
            return (f"{chosen}, to a multiple of {matching.GRANULE} that fits",)
        target = matching.step_flops(_ALPHAFOLD3, counterpart(config))
        flops = model_config(config).step_flops(int(config["sequence"])) * int(config["batch"])
        return (f"{chosen}, off by {100 * (flops / target - 1):+.2g} %",)

    def facts(self, config: Config) -> Facts:
        """See `Workload`; what is counted is the plain computation, whatever the variant."""
        with torch.device("meta"):
            training = self.training(config, variant=NAIVE)
            text = torch.empty(int(config["batch"]), int(config["sequence"]) + 1, dtype=torch.int64)
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
        tokens = int(config["batch"]) * int(config["sequence"])
        options = Options(
            tokens=int(config["sequence"]),
            variant=variant or str(config["variant"]),
            rows=int(config["loss_rows"]) or usual_rows(tokens),
            checkpointing=bool(config["checkpointing"]),
            compiled=config["backend"] == "compiled",
        )
        table = precision(str(config["precision"]))
        return LanguageModelTraining(model_config(config), table, options, device=device)

    def build(self, config: Config, setting: Setting) -> "LanguageModelProgram":
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
                tokens=int(config["sequence"]),
                batch=batch,
                first=setting.rank * batch,
            ).to(setting.device)

        program = LanguageModelProgram(training, text)
        if setting.ranks > 1:
            program.average_over_ranks()
        return program

    def build_abstract(self, config: Config) -> "LanguageModelProgram":
        """See `Workload`."""
        training = self.training(config)
        training.materialize_moments()
        shape = int(config["batch"]), int(config["sequence"]) + 1
        program = LanguageModelProgram(training, lambda _: torch.zeros(shape, dtype=torch.int64))
        program.run("data")
        program.phases = tuple(p for p in program.phases if p not in program.host_phases)
        return program


def model_config(config: Config) -> LanguageModelConfig:
    """The preset of a case."""
    return PRESETS[str(config["preset"])]


def counterpart(config: Config) -> Config:
    """The case of AlphaFold 3 that a case is compared with, its other axes as they usually are."""
    shared = {name: config[name] for name in ("tokens", "batch", "precision")}
    return _ALPHAFOLD3.configure(shared | {"preset": config["against"], "entry": SYNTHETIC})


def comparison(config: Config) -> str:
    """What a case has in common with AlphaFold 3, as labels say it."""
    if config["equal"] == matching.TOKENS:
        return "equal tokens"
    name = "FLOPs" if config["equal"] == matching.FLOPS else config["equal"]
    return f"equal {name} to {_ALPHAFOLD3.name} {config['against']}"


def _check_triton() -> None:
    if find_spec("triton") is None:
        raise UnsupportedError(
            "FlexAttention is compiled by Triton, which is not installed; "
            f"install it, or take variant={NAIVE}"
        )
