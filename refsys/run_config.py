"""What a training run computes."""

from dataclasses import dataclass

from refsys.training.step import OptimizerConfig

# What can be trained.
TRUNK, WHOLE = MODELS = ("trunk", "alphafold3")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Everything that decides what a run computes.

    Attributes:
        preset: Model size.
        model: ``trunk`` or ``alphafold3``.
        stage: Stage of training of the whole model: weights of its losses.
        samples: Noised copies of each example, of the whole model; 0 is the stage's own.
        start: Checkpoint whose weights the run starts from; random ones if empty.
        precision: Dtype table.
        entries: Prepared structures to train on.
        tokens: Crop.
        alignment_rows: Alignment rows.
        batch: Examples in a step.
        sampling: How examples are drawn, see `refsys.data.batches.sampling.SAMPLINGS`.
        crop: Kind of crop.
        cycles: Recycling iterations of a step, at most: each step draws from 1 to this.
        seed: Seed of everything random.
        bucketed: Whether batches of small examples are smaller, see `refsys.data.batches.buckets`.
        checkpointing: Whether blocks recompute their activations.
        repeat: Draws to go through again and again: step s has the crop, the noise and all other
            draws of step s modulo this; 0 is new ones for ever.
        learning_rate: At the end of the warm-up.
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
        """The step whose draws a step has."""
        return step % self.repeat if self.repeat else step
