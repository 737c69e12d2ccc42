"""The training step of AlphaFold 3 (section 3.7 and 5 of its supplement).

Trunk; a rollout; labels permuted to it, on the host; then judgement of the rollout, many noised
copies denoised at once, and all losses.

Shape suffixes: B batch, D diffusion samples, A atoms.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from refsys.batch import Batch
from refsys.config import ModelConfig
from refsys.errors import ArgumentError
from refsys.losses.confidence import confidence_loss, confidence_losses
from refsys.losses.diffusion import DiffusionLossConfig, diffusion_loss
from refsys.losses.trunk import distogram_loss
from refsys.model.alphafold3 import AlphaFold3, TrunkState
from refsys.model.augmentation import augmented, noise_levels, unit_noise
from refsys.model.context import Context
from refsys.model.diffusion import DiffusionConditioning
from refsys.precision import Precision
from refsys.training.step import ForwardPass, Training

# Crops of small presets are multiples of this.
_CROP_STEP = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A stage of training.

    Attributes:
        tokens: Crop of the full model.
        samples: Noised copies of each example, of the full model.
        bond: Weight of the ligand bonds in the diffusion loss.
        pae: Weight of the aligned error in the confidence loss.
        smooth_lddt: Weight of smooth-LDDT in the diffusion loss.
        confidence: Weight of the confidence loss.
        diffusion: Weight of the diffusion loss.
        distogram: Weight of the distogram loss.
    """

    tokens: int
    samples: int
    bond: float = 0.0
    pae: float = 0.0
    smooth_lddt: float = 1.0
    confidence: float = 1e-4
    diffusion: float = 4.0
    distogram: float = 0.03

    def crop(self, model: ModelConfig) -> int:
        """Crop of a preset: its own in the first stage, longer in the same measure later."""
        return max(_CROP_STEP, model.tokens * self.tokens // 384 // _CROP_STEP * _CROP_STEP)

    def copies(self, model: ModelConfig) -> int:
        """Noised copies of each example of a preset."""
        return max(1, model.samples * self.samples // 48)


STAGES = {
    "initial": Stage(tokens=384, samples=48),
    "fine_tuning_1": Stage(tokens=640, samples=32, bond=1.0),
    "fine_tuning_2": Stage(tokens=768, samples=32, bond=1.0),
    "fine_tuning_3": Stage(tokens=768, samples=32, pae=1.0),
}


def stage(name: str) -> Stage:
    """The stage of that name.

    Raises:
        ArgumentError: there is none.
    """
    if name not in STAGES:
        raise ArgumentError(f"stage={name!r} does not exist; choose one of {', '.join(STAGES)}")
    return STAGES[name]


class AlphaFold3Training(Training):
    """The whole model in training."""

    forward_phases = ("trunk", "rollout", "permutation", "diffusion")
    host_phases = ("permutation",)
    model: AlphaFold3

    def __init__(
        self,
        config: ModelConfig,
        precision: Precision,
        *,
        stage: Stage,
        samples: int,
        **options: Any,
    ) -> None:
        """See `Training` for the other options.

        Args:
            config: The preset.
            precision: The dtype table.
            stage: Weights of the losses.
            samples: Noised copies of each example, which a small preset has fewer of.
            **options: See `Training`.
        """
        super().__init__(lambda: AlphaFold3(config, precision), precision, **options)
        self.stage = stage
        self.samples = samples

    def begin(self, batch: Batch, step: int) -> "AlphaFold3Pass":
        """See `Training`."""
        return AlphaFold3Pass(self, batch, step)

    def differentiated(self, batch: Batch) -> None:
        """See `Training`: the last cycle, and no rollout."""
        context = self.context(batch, 0)
        state = self.model.trunk(batch, context, 1)
        condition = self.model.condition(state, batch, context)
        self.loss(state, condition, batch["atom_position"], batch, context)

    def loss(
        self,
        state: TrunkState,
        condition: DiffusionConditioning,
        rollout_BA3: Tensor,
        batch: Batch,
        context: Context,
    ) -> Tensor:
        """The scalar that is minimized; its parts become `losses`.

        Args:
            state: The trunk's.
            condition: What all samples share.
            rollout_BA3: The structure that is judged, ångström.
            batch: With the labels to compare with.
            context: Layout and the keys of every draw.
        """
        judged = self.model.judge(state, rollout_BA3, batch, context)
        judgement = confidence_losses(judged, rollout_BA3, batch, self.precision)
        noised_BDA3, sigma_BD = self.noised(batch, context)
        denoised_BDA3 = context.by_samples(
            self.model.denoise, noised_BDA3, sigma_BD, condition, batch, context, axes=(1, 1)
        )
        weights = DiffusionLossConfig(bond=self.stage.bond, smooth_lddt=self.stage.smooth_lddt)
        diffusion = diffusion_loss(denoised_BDA3, sigma_BD, batch, weights, self.precision)
        logits = self.model.distogram_logits(state, context)
        distogram = distogram_loss(logits, batch, context.layout, self.precision)
        loss = (
            self.stage.confidence * confidence_loss(judgement, self.stage.pae)
            + self.stage.diffusion * diffusion["diffusion"]
            + self.stage.distogram * distogram
        )
        parts = judgement | diffusion | {"distogram": distogram}
        self.losses = {name: part.detach() for name, part in parts.items()}
        return loss

    def noised(self, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """Noised copies [B, D, A, 3] of the labels, each moved by itself, and their levels [B, D].

        What was not modelled lies at the label's centre.
        """
        mask_BA, dtype = batch["atom_mask"], self.precision.coordinates
        truth_B1A3 = batch["atom_position"].to(dtype).unsqueeze(1)
        copies_BDA3 = truth_B1A3.expand(-1, self.samples, -1, -1)
        moved_BDA3 = augmented(
            copies_BDA3, batch["atom_resolved"], context, self.seed, "training/augmentation"
        )
        sigma_BD = noise_levels(context, mask_BA, self.samples, self.seed)
        sigma_BD = sigma_BD.to(self.precision.noise_levels)
        noise_BDA3 = unit_noise(context, mask_BA, self.samples, self.seed, "training/noise")
        return moved_BDA3 + sigma_BD.to(dtype)[..., None, None] * noise_BDA3.to(dtype), sigma_BD


class AlphaFold3Pass(ForwardPass):
    """One forward pass of the whole model.

    Attributes:
        rollout_BA3: The structure that the model made of the inputs, once it is there.
    """

    def __init__(self, training: AlphaFold3Training, batch: Batch, step: int) -> None:
        self._training, self._batch, self._step = training, batch, step
        self._context = training.context(batch, step)
        self._state: TrunkState | None = None
        self._condition: DiffusionConditioning | None = None
        self.rollout_BA3: Tensor | None = None

    def run(self, phase: str) -> None:
        """See `ForwardPass`."""
        phases = {
            "trunk": self._trunk,
            "rollout": self._rollout,
            "permutation": self._permutation,
            "diffusion": self._diffusion,
        }
        phases[phase]()

    def _trunk(self) -> None:
        model, context = self._training.model, self._context
        cycles = self._training.cycles_of(self._step)
        self._state = model.trunk(self._batch, context, cycles)
        self._condition = model.condition(self._state, self._batch, context)

    def _rollout(self) -> None:
        assert self._condition is not None, "the trunk comes first"
        training = self._training
        rollout_BDA3 = training.model.rollout(
            self._condition, self._batch, self._context, seed=training.seed
        )
        self.rollout_BA3 = rollout_BDA3[:, 0]

    def _permutation(self) -> None:
        assert self.rollout_BA3 is not None, "the rollout comes first"
        if self._training.relabel:
            self._batch = self._training.relabel(self._batch, self.rollout_BA3, self._step)

    def _diffusion(self) -> None:
        assert self._state is not None, "the trunk comes first"
        assert self._condition is not None, "the trunk comes first"
        assert self.rollout_BA3 is not None, "the rollout comes first"
        self.loss = self._training.loss(
            self._state, self._condition, self.rollout_BA3, self._batch, self._context
        )
        self._state = self._condition = None
