"""Configuration of a training run."""

from dataclasses import dataclass

from refsys.training.step import OptimizerConfig

# Models that can be trained: the trunk alone, or AlphaFold 3 in full.
TRUNK, FULL = MODELS = ("trunk", "alphafold3")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """All options that determine the result of a run.

    Attributes:
        preset: Model size.
        model: ``trunk`` or ``alphafold3``.
        stage: Training stage of the full model, which sets the weights of its losses.
        samples: Diffusion samples of each example (full model); 0 takes the default of the stage.
        start: Checkpoint of the initial weights; random weights if empty.
        precision: Dtype table.
        entries: Prepared structures to train on.
        tokens: Crop size, tokens.
        alignment_rows: MSA depth, rows.
        batch: Examples in a step.
        sampling: Sampling of examples, see `refsys.data.batches.sampling.SAMPLINGS`.
        crop: Kind of crop.
        cycles: Maximum of recycling iterations: each step samples their number from 1 to this.
        seed: Seed of all random streams.
        bucketed: Whether batches of small examples are smaller, see `refsys.data.batches.buckets`.
        checkpointing: Whether blocks recompute their activations.
        repeat: Period of the random draws: step s has the crop, the noise and all other draws of
            step s modulo this; 0 never repeats.
        learning_rate: Learning rate at the end of the warm-up.
        warmup_steps: Steps of linear warm-up.
    """

    preset: str
    entries: tuple[str, ...]
    tokens: int
    alignment_rows: int
    model: str = "trunk"
    stage: str = "initial"
    samples: int = 0
    start: str = ""
    precision: str = "float32"
    batch: int = 1
    sampling: str = "weighted"
    crop: str = "mixed"
    cycles: int = 1
    seed: int = 0
    bucketed: bool = True
    checkpointing: bool = True
    repeat: int = 0
    learning_rate: float = OptimizerConfig().learning_rate
    warmup_steps: int = OptimizerConfig().warmup_steps

    def draws_of(self, step: int) -> int:
        """Return the step whose random draws `step` uses."""
        return step % self.repeat if self.repeat else step
