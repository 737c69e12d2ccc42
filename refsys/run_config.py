"""Configuration of a training run: one tree of frozen dataclasses.

`foldperf train`, the workloads that train structures and the tracer build this tree. Its leaves are
declared with `refsys.options.option`: a new leaf is an axis of those workloads and an option of the
command line with no further line. An option that changes no cost of a step, as the learning rate,
is declared as no axis.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from refsys.config import PRESETS, ModelConfig, preset
from refsys.errors import ArgumentError
from refsys.options import Value, configured, option, values_of
from refsys.training.stages import STAGES, Stage, stage

# Models that can be trained: the trunk alone by its distogram, or the full model.
TRUNK, FULL = MODELS = ("trunk", "alphafold3")
# Backend that stands for the best one of the device.
DEFAULT_BACKEND = "default"
# Exchanges among context ranks.
EXCHANGES = ("automatic", "plain", "hierarchical")
# Options that decide how a run computes, not what: a run may continue with other ones.
NOT_COMPUTED = frozenset(
    {
        "workers",
        "data_ranks",
        "context_ranks",
        "exchange_chunks",
        "exchange",
        "node_ranks",
        "channel_groups",
        "offload_checkpoints",
        "shard_parameters",
        "collective_timeout",
    }
)
# Largest decay of an exponential average.
_BELOW_ONE = 1 - 1e-9


def _precisions() -> tuple[str, ...]:
    from refsys.precision import PRECISIONS

    return tuple(PRECISIONS)


def _crops() -> tuple[str, ...]:
    from refsys.data.batches.crop import CROPS

    return CROPS


def _samplings() -> tuple[str, ...]:
    from refsys.data.batches.sampling import SAMPLINGS

    return SAMPLINGS


def _backends() -> tuple[str, ...]:
    from refsys.ops.backend import BACKENDS

    return (DEFAULT_BACKEND, *BACKENDS)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOptions:
    """Model, stage of training and recycling."""

    model: str = option(FULL, "model to train", choices=MODELS, axis=False)
    preset: str = option("tiny", "model size", choices=tuple(PRESETS), titled=True)
    stage: str = option(
        "initial", "stage of training: crop, samples, loss weights", choices=tuple(STAGES)
    )
    samples: int = option(
        0, "diffusion samples of each example; 0 is the preset's at its stage", minimum=0
    )
    cycles: int = option(4, "recycling iterations of a step", minimum=1, maximum=64)
    sample_cycles: bool = option(
        True, "sample the recycling iterations of each step, from 1 to cycles", axis=False
    )
    dropout: bool = option(True, "dropout as in training")
    start: str = option("", "run folder or checkpoint with the initial weights", axis=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataOptions:
    """Examples of a step and the sizes of their batch."""

    tokens: int = option(0, "crop; 0 is the stage's for the preset", minimum=0)
    alignment_rows: int = option(0, "MSA depth; 0 is the preset's own", minimum=0)
    entries: tuple[str, ...] = option(
        ("8vkf",),
        "prepared structures to train on, separated by spaces, or synthetic",
        axis_name="entry",
        titled=True,
    )
    batch: int = option(1, "examples in a step", minimum=1)
    crop: str = option(
        "mixed", "kind of crop: contiguous, spatial, interface or mixed", choices=_crops
    )
    atoms: int = option(0, "size of the atom axis; 0 is as many as the crops need", minimum=0)
    sampling: str = option(
        "weighted",
        "weighted: chains and interfaces, as published; epochs: each entry once an epoch",
        choices=_samplings,
        axis=False,
    )
    sample_depth: bool = option(
        True, "sample the MSA depth of each recycling iteration", axis=False
    )
    bucketed: bool = option(True, "make the batch of a small example smaller", axis=False)
    repeat: int = option(
        0,
        "steps whose random choices are repeated again and again; 0 never repeats",
        minimum=0,
        axis=False,
    )
    workers: int = option(
        1,
        "loader processes that build batches ahead of the step; 0 builds them in the step and "
        "copies them plainly",
        minimum=0,
        maximum=256,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryOptions:
    """Memory that a step trades for time."""

    checkpointing: bool = option(True, "recompute blocks in backward")
    offload_checkpoints: bool = option(
        False, "keep the inputs of recomputed blocks in pinned host memory until backward"
    )
    chunk_rows: int = option(
        0,
        "rows at once where intermediates are large; 0 is all of them, or a quarter of a context "
        "rank's without fused kernels",
        minimum=0,
    )
    chunk_samples: int = option(
        0, "diffusion samples denoised at once; 0 is all of them", minimum=0
    )

    def __post_init__(self) -> None:
        if self.offload_checkpoints and not self.checkpointing:
            raise ArgumentError(
                "offload_checkpoints=True has nothing to move with checkpointing=False; "
                "turn checkpointing on"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """Adam and its schedule, as AlphaFold 3 is trained (section 5.4 of its supplement)."""

    learning_rate: float = option(
        1.8e-3, "learning rate at the end of the warm-up", minimum=1e-12, maximum=1e30, axis=False
    )
    warmup_steps: int = option(1000, "steps of linear warm-up", minimum=1, axis=False)
    decay_every: int = option(50_000, "steps between decays", minimum=1, axis=False)
    decay: float = option(0.95, "factor of each decay", minimum=0, maximum=1, axis=False)
    beta_1: float = option(
        0.9, "decay of the first moment", minimum=0, maximum=_BELOW_ONE, axis=False
    )
    beta_2: float = option(
        0.95, "decay of the second moment", minimum=0, maximum=_BELOW_ONE, axis=False
    )
    epsilon: float = option(
        1e-8, "added to the root of the second moment", minimum=1e-30, maximum=1, axis=False
    )
    clip: float = option(10.0, "largest global gradient norm", minimum=1e-12, axis=False)
    average: float = option(
        0.999,
        "decay of the exponential moving average of the parameters, before its bias correction",
        minimum=0,
        maximum=_BELOW_ONE,
        axis=False,
    )

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        warmup = min(1.0, (step + 1) / self.warmup_steps)
        return self.learning_rate * warmup * self.decay ** (step // self.decay_every)

    def average_weight(self, step: int) -> float:
        """Return the weight of a step's parameters in the average after it, steps counted from 0.

        With decay d, the average after step t is the mean of the parameters after steps 0 to t,
        weighted by d^t, ..., d, 1: an exponential moving average with the bias correction of Adam,
        in which the initial weights have no part.
        """
        return (1.0 - self.average) / (1.0 - self.average ** (step + 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelOptions:
    """Ranks of a run: the mesh is (data, context)."""

    data_ranks: int = option(
        1, "ranks that share the examples of a step", minimum=1, maximum=4096, axis=False
    )
    context_ranks: int = option(
        1,
        "ranks that divide the tokens and atoms of each example among them",
        minimum=1,
        maximum=4096,
    )
    exchange_chunks: int = option(
        1,
        "parts of the channels that context ranks exchange one by one, to overlap computation",
        minimum=1,
        maximum=64,
    )
    exchange: str = option(
        "automatic",
        "exchanges of context ranks on several nodes: plain, hierarchical (within a node first) or "
        "automatic (the one predicted to be faster)",
        choices=EXCHANGES,
    )
    node_ranks: int = option(
        0,
        "ranks of a node; 0 is those that torchrun started on this one",
        minimum=0,
        maximum=4096,
    )
    channel_groups: int = option(
        0,
        "groups of context ranks that divide the product of each channel in triangle "
        "multiplication; 0 is 1, or with more ranks than channels those predicted to be fastest",
        minimum=0,
        maximum=4096,
    )
    shard_parameters: bool = option(
        False, "divide parameters, gradients and optimizer state among all ranks (FSDP2)"
    )
    # A rank that builds its first batch or compiles its kernels leaves the others waiting so long.
    collective_timeout: float = option(
        1800.0,
        "seconds that a rank waits for the others before the run fails",
        minimum=0.1,
        axis=False,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Configuration of a run.

    Attributes:
        model: Model, stage of training and recycling.
        data: Examples and sizes of a batch.
        precision: Name of the dtype table.
        backend: Implementation of the operators.
        memory: Checkpointing and chunks.
        optimizer: Adam and its schedule.
        parallel: Ranks.
        seed: Seed of every random choice.
    """

    model: ModelOptions = field(default_factory=ModelOptions)
    data: DataOptions = field(default_factory=DataOptions)
    precision: str = option(
        "float32", "dtype table: float32, bfloat16 or float64", choices=_precisions
    )
    backend: str = option(
        DEFAULT_BACKEND,
        "operators: default (the best of the device), reference, compiled, triton or a baseline",
        choices=_backends,
    )
    memory: MemoryOptions = field(default_factory=MemoryOptions)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    parallel: ParallelOptions = field(default_factory=ParallelOptions)
    seed: int = option(0, "seed of every random choice", minimum=0, maximum=2**63, axis=False)

    @property
    def preset(self) -> ModelConfig:
        """Hyper-parameters of the model."""
        return preset(self.model.preset)

    @property
    def stage(self) -> Stage:
        """Stage of training."""
        return stage(self.model.stage)

    def resolved(self) -> "RunConfig":
        """Return the configuration with sizes of 0 replaced by those that they stand for."""
        model = self.preset
        samples = self.model.samples or self.stage.samples_of(model)
        return replace(
            self,
            model=replace(self.model, samples=samples),
            data=replace(
                self.data,
                tokens=self.data.tokens or self.stage.crop(model),
                alignment_rows=self.data.alignment_rows or model.alignment_rows,
            ),
        )

    def sampled_step(self, step: int) -> int:
        """Return the step whose random choices a step has: itself, unless they are repeated."""
        return step % self.data.repeat if self.data.repeat else step

    def identity(self) -> dict[str, Value]:
        """Return every option that decides what the run computes.

        It does not depend on the loader processes; on the ranks its rounding alone does.
        """
        values = values_of(self)
        return {name: value for name, value in values.items() if name not in NOT_COMPUTED}


def run_config(**values: Any) -> RunConfig:
    """Return a configuration with some options chosen by name, as ``run_config(tokens=64)``.

    Raises:
        ArgumentError: an option does not exist, or a value does not fit.
    """
    entries = values.pop("entries", None)
    if entries is not None:
        values["entry"] = " ".join(entries)
    if not str(values.get("entry", "x")).split():
        raise ArgumentError("entries: name at least one")
    return configured(RunConfig, values)
