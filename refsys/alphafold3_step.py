"""The training step of AlphaFold 3 (section 3.7 and 5 of its supplement).

Trunk, rollout, judgement of the rollout, many noised copies denoised at once, and all losses.

Shape suffixes: B batch, D diffusion samples, A atoms.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from refsys.batch import Batch
from refsys.confidence_losses import confidence_loss, confidence_losses
from refsys.config import ModelConfig
from refsys.diffusion_losses import DiffusionLossConfig, diffusion_loss
from refsys.losses import distogram_loss
from refsys.model.alphafold3 import AlphaFold3, TrunkState
from refsys.model.augmentation import augmented, noise_levels, unit_noise
from refsys.model.context import Context
from refsys.model.diffusion import DiffusionConditioning
from refsys.precision import Precision
from refsys.training_step import Training


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A stage of training.

    Attributes:
        tokens: Crop.
        samples: Noised copies of each example.
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


STAGES = {
    "initial": Stage(tokens=384, samples=48),
    "fine_tuning_1": Stage(tokens=640, samples=32, bond=1.0),
    "fine_tuning_2": Stage(tokens=768, samples=32, bond=1.0),
    "fine_tuning_3": Stage(tokens=768, samples=32, pae=1.0),
}


class AlphaFold3Training(Training):
    """The whole model in training.

    Attributes:
        losses: Every part of the last loss, as scalars on the device.
    """

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
        self.losses: dict[str, Tensor] = {}

    def forward(self, batch: Batch, step: int) -> Tensor:
        """See `Training`."""
        context = self.context(batch, step)
        state = self.model.trunk(batch, context, self.cycles)
        condition = self.model.condition(state, batch, context)
        rollout_BDA3 = self.model.rollout(condition, batch, context, seed=self.seed)
        return self._loss(state, condition, rollout_BDA3[:, 0], batch, context)

    def differentiated(self, batch: Batch) -> None:
        """See `Training`: the last cycle, and no rollout."""
        context = self.context(batch, 0)
        state = self.model.trunk(batch, context, 1)
        condition = self.model.condition(state, batch, context)
        self._loss(state, condition, batch["atom_position"], batch, context)

    def _loss(
        self,
        state: TrunkState,
        condition: DiffusionConditioning,
        rollout_BA3: Tensor,
        batch: Batch,
        context: Context,
    ) -> Tensor:
        judged = self.model.judge(state, rollout_BA3, batch, context)
        judgement = confidence_losses(judged, rollout_BA3, batch, self.precision)
        noised_BDA3, sigma_BD = self.noised(batch, context)
        denoised_BDA3 = self.model.denoise(noised_BDA3, sigma_BD, condition, batch, context)
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
