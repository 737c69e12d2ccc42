"""Language model in training, fair and naive, for comparison with AlphaFold 3."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from refsys.config import PRESETS as ALPHAFOLD3_PRESETS
from refsys.costs.flops import flops_by_component, parameter_counts
from refsys.options import option
from refsys.precision import PRECISIONS, precision
from refsys.training.loading import SYNTHETIC
from workloads.alphafold3 import AlphaFold3Case, AlphaFold3Workload
from workloads.errors import UnsupportedError, WorkloadError
from workloads.language_model import matching
from workloads.language_model.losses import usual_rows
from workloads.language_model.model import FAIR, NAIVE, VARIANTS
from workloads.language_model.presets import PRESETS, LanguageModelConfig
from workloads.language_model.program import LanguageModelProgram
from workloads.language_model.training import LanguageModelTraining, Options, synthetic_text
from workloads.predicted_costs import predicted_costs
from workloads.workload import ExecutionContext, StaticCosts, Value, Workload

_ALPHAFOLD3 = AlphaFold3Workload()
_BLOOM = {"preset": "bloom-560m", "precision": "bfloat16", "tokens": 768}


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerCase:
    """Configuration of a case."""

    preset: str = option("bloom-tiny", "family and size", choices=tuple(PRESETS), titled=True)
    tokens: int = option(
        0,
        "of the protein compared with, and of a sequence if equal=tokens; 0 is the preset's own",
        minimum=0,
    )
    equal: str = option(
        matching.TOKENS,
        "what a sequence has in common with a protein of so many tokens in alphafold3",
        choices=matching.KINDS,
    )
    against: str = option(
        "",
        "preset of alphafold3 compared with; nothing is the one of the preset's size",
        choices=("", *ALPHAFOLD3_PRESETS),
    )
    sequence: int = option(
        0, "tokens of a sequence, which follow from the others; 0 is what they say", minimum=0
    )
    batch: int = option(1, "sequences in a step", minimum=1)
    variant: str = option(
        FAIR,
        "fair: fused attention, chunked loss, fused AdamW; naive: the strawman",
        choices=VARIANTS,
        titled=True,
    )
    precision: str = option("float32", "dtype table", choices=tuple(PRECISIONS))
    backend: str = option("eager", "whether blocks are compiled", choices=("eager", "compiled"))
    checkpointing: bool = option(False, "recompute blocks in backward")
    loss_rows: int = option(
        0,
        "tokens whose logits exist at once, if fair; 0 is half of them, at most 256",
        minimum=0,
    )
    data_ranks: int = option(
        1, "ranks that average their gradients, in a trace", minimum=1, axis=False
    )


class TransformerWorkload(Workload[TransformerCase]):
    """Cases of training a decoder-only transformer on synthetic text."""

    name = "transformer"
    summary = "BLOOM-560M, or a Llama of its size, in training: the language model to compare with"
    data_parallel = True
    configuration = TransformerCase
    selections = {  # noqa: RUF012 (read, never written)
        "exact": (
            {**_BLOOM, "checkpointing": [False, True]},
            {**_BLOOM, "variant": NAIVE},
            {**_BLOOM, "preset": "llama-560m"},
        ),
        "timing": ({"preset": "bloom-tiny"},),
        "quick": ({"preset": "bloom-tiny", "tokens": [64, 128]},),
    }

    def configure(self, values: Mapping[str, object]) -> TransformerCase:
        """See `Workload`; the length of a sequence follows from the comparison.

        Raises:
            WorkloadError: an axis is unknown, a value does not fit, or no length is as asked.
        """
        config = super().configure(values)
        model = model_config(config)
        if config.loss_rows and config.variant == NAIVE:
            raise WorkloadError(
                f"loss_rows={config.loss_rows} is for variant=fair; naive has all logits"
            )
        requested = config.sequence
        config = replace(
            config,
            tokens=config.tokens or model.tokens,
            against=config.against or model.counterpart,
            sequence=0,
        )
        sequence = self._sequence(config)
        if requested not in {0, sequence}:
            raise WorkloadError(
                f"sequence={requested}, but equal={config.equal} makes it {sequence}; leave it out"
            )
        return replace(config, sequence=sequence)

    def _sequence(self, config: TransformerCase) -> int:
        """Return the sequence length of the comparison."""
        if config.equal == matching.TOKENS:
            return config.tokens
        other = counterpart(config)
        if config.equal == matching.FLOPS:
            flops, batch = model_config(config).step_flops, config.batch
            target = matching.step_flops(_ALPHAFOLD3, other)
            return matching.sequence_of_flops(lambda tokens: batch * flops(tokens), target)

        @cache
        def peak(tokens: int) -> int:
            return predicted_costs(self, replace(config, sequence=tokens)).peak.nbytes

        limit = matching.peak_bytes(_ALPHAFOLD3, other)
        return matching.cached(
            "sequence", self, config, lambda: matching.longest_within(peak, limit)
        )

    def title(self, config: TransformerCase) -> str:
        """See `Workload`; what follows from the rest is not said."""
        determined = {"preset": config.preset, "tokens": config.tokens}
        usual = self.values(self.configure(determined)) | {"tokens": 0}
        return " ".join([self.name, *self.chosen(config, usual)])

    def labels(self, config: TransformerCase) -> dict[str, Value]:
        """See `Workload`."""
        named = ("preset", "tokens", "variant", "precision", "equal", "against", "sequence")
        unusual = self.chosen(config, {}, named, titled=False)
        variant = "naive (strawman)" if config.variant == NAIVE else FAIR
        return {
            "tokens": config.tokens,
            "series": f"{self.name} {config.preset}",
            "variant": ", ".join([variant, config.precision, comparison(config), *unusual]),
            "synthetic": True,
        }

    def notes(self, config: TransformerCase) -> tuple[str, ...]:
        """Return the assumptions of the costs."""
        model = model_config(config)
        blocks, width, tokens = model.blocks, model.width, config.sequence
        naive = config.variant == NAIVE
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

    def _residual(self, config: TransformerCase) -> tuple[str, ...]:
        """Return how close the sequence comes to the target of its choice."""
        if config.equal == matching.TOKENS:
            return ()
        choice = f"{config.sequence:,} tokens: {comparison(config)} at {config.tokens} tokens"
        if config.equal == matching.MEMORY:
            return (f"{choice}, to a multiple of {matching.GRANULE} that fits",)
        target = matching.step_flops(_ALPHAFOLD3, counterpart(config))
        flops = model_config(config).step_flops(config.sequence) * config.batch
        return (f"{choice}, off by {100 * (flops / target - 1):+.2g} %",)

    def parameters(self, config: TransformerCase) -> Mapping[str, int]:
        """See `Workload`."""
        with torch.device("meta"):
            return parameter_counts(self.training(config, variant=NAIVE).model)

    def static_costs(self, config: TransformerCase) -> StaticCosts:
        """See `Workload`; what is counted is the plain computation, whatever the variant."""
        with torch.device("meta"):
            training = self.training(config, variant=NAIVE)
            text = torch.empty(config.batch, config.sequence + 1, dtype=torch.int64)
        counts = parameter_counts(training.model)
        with torch.no_grad(), flops_by_component(training.model) as spent:
            training.loss(text)
        table = precision(config.precision)
        parameters, forward = sum(counts.values()), sum(spent.values())
        # A parameter and its two moments are read and written, its gradient is written and read.
        traffic = parameters * table.parameters.itemsize * 8
        return StaticCosts(
            parameters=parameters,
            components=counts,
            forward_flops=forward,
            forward_flops_by_component={name: spent[name] for name in counts},
            step_flops=3 * forward,
            arithmetic=str(table.activations).removeprefix("torch."),
            minimum_bytes=traffic + text.numel() * text.element_size(),
            notes=self.notes(config),
        )

    def training(
        self, config: TransformerCase, device: torch.device | None = None, variant: str = ""
    ) -> LanguageModelTraining:
        """The case's model and optimizer, without weights; of another variant if one is given."""
        tokens = config.batch * config.sequence
        options = Options(
            tokens=config.sequence,
            variant=variant or config.variant,
            rows=config.loss_rows or usual_rows(tokens),
            checkpointing=config.checkpointing,
            compiled=config.backend == "compiled",
        )
        table = precision(config.precision)
        return LanguageModelTraining(model_config(config), table, options, device=device)

    def build(self, config: TransformerCase, setting: ExecutionContext) -> "LanguageModelProgram":
        """See `Workload`."""
        if setting.device.type == "cuda" and config.variant == FAIR:
            _check_triton()
        training = self.training(config, setting.device)
        training.initialize(setting.seed)
        batch = config.batch

        def text(step: int) -> Tensor:
            return synthetic_text(
                setting.seed,
                step,
                vocabulary=model_config(config).vocabulary,
                tokens=config.sequence,
                batch=batch,
                first=setting.rank * batch,
            ).to(setting.device)

        program = LanguageModelProgram(training, text)
        if setting.ranks > 1:
            program.average_over_ranks()
        return program

    def on_data_ranks(self, config: TransformerCase, ranks: int) -> TransformerCase:
        """See `Workload`."""
        return replace(config, data_ranks=ranks)

    def build_abstract(self, config: TransformerCase) -> "LanguageModelProgram":
        """See `Workload`."""
        training = self.training(config)
        training.materialize_moments()
        shape = config.batch, config.sequence + 1
        program = LanguageModelProgram(training, lambda _: torch.zeros(shape, dtype=torch.int64))
        if config.data_ranks > 1:
            program.average_over_ranks()
        program.run("data")
        program.phases = tuple(p for p in program.phases if p not in program.host_phases)
        return program


def model_config(config: TransformerCase) -> LanguageModelConfig:
    """The preset of a case."""
    return PRESETS[config.preset]


def counterpart(config: TransformerCase) -> AlphaFold3Case:
    """Return the AlphaFold 3 case that a case is compared with; other axes have their defaults."""
    return _ALPHAFOLD3.configure(
        {
            "tokens": config.tokens,
            "batch": config.batch,
            "precision": config.precision,
            "preset": config.against,
            "entry": SYNTHETIC,
        }
    )


def comparison(config: TransformerCase) -> str:
    """Return the quantity that a case has in common with AlphaFold 3, as labels name it."""
    if config.equal == matching.TOKENS:
        return "equal tokens"
    name = "FLOPs" if config.equal == matching.FLOPS else config.equal
    return f"equal {name} to {_ALPHAFOLD3.name} {config.against}"


def _check_triton() -> None:
    if find_spec("triton") is None:
        raise UnsupportedError(
            "FlexAttention is compiled by Triton, which is not installed; "
            f"install it, or take variant={NAIVE}"
        )
