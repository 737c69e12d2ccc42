"""Training step of AlphaFold 3 (sections 3.7 and 5 of its supplement).

The phases: trunk; rollout; permutation of the labels to it, on the host; then the confidence head
on the rollout, all diffusion samples denoised at once, and all losses.

Shape suffixes: B batch, D diffusion samples, A atoms.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from refsys.batch import Batch
from refsys.config import ModelConfig
from refsys.losses.confidence import confidence_loss, confidence_losses
from refsys.losses.diffusion import DiffusionLossConfig, diffusion_loss
from refsys.losses.trunk import distogram_loss
from refsys.model.alphafold3 import AlphaFold3, TrunkState
from refsys.model.augmentation import augmented, noise_levels, unit_noise
from refsys.model.context import Context
from refsys.model.diffusion import DiffusionConditioning
from refsys.precision import Precision
from refsys.training.stages import Stage
from refsys.training.step import ForwardPass, Training


class AlphaFold3Training(Training):
    """The full model in training."""

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
            config: Hyper-parameters of the model.
            precision: Dtype table.
            stage: Weights of the losses.
            samples: Diffusion samples of each example.
            **options: See `Training`.
        """
        super().__init__(lambda: AlphaFold3(config, precision), precision, **options)
        self.stage = stage
        self.samples = samples

    def begin(self, batch: Batch, step: int) -> "AlphaFold3Pass":
        """See `Training`."""
        return AlphaFold3Pass(self, batch, step)

    def differentiated(self, batch: Batch) -> None:
        """See `Training`; gradients flow through the last recycling iteration, not the rollout."""
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
        """Return the scalar that is minimized, and store its parts in `losses`.

        Args:
            state: Output of the trunk.
            condition: Conditioning that all diffusion samples share.
            rollout_BA3: Structure that the confidence head assesses, ångström.
            batch: Batch with the permuted labels.
            context: Layout and RNG keys.
        """
        output = self.model.predict_confidence(state, rollout_BA3, batch, context)
        confidence = confidence_losses(output, rollout_BA3, batch, context.layout, self.precision)
        noised_BDA3, sigma_BD = self.noised(batch, context)
        denoised_BDA3 = context.by_samples(
            self.model.denoise, noised_BDA3, sigma_BD, condition, batch, context, axes=(1, 1)
        )
        weights = DiffusionLossConfig(bond=self.stage.bond, smooth_lddt=self.stage.smooth_lddt)
        diffusion = diffusion_loss(
            denoised_BDA3, sigma_BD, batch, weights, context.layout, self.precision
        )
        logits = self.model.distogram_logits(state, context)
        distogram = distogram_loss(logits, batch, context.layout, self.precision)
        loss = (
            self.stage.confidence * confidence_loss(confidence, self.stage.pae)
            + self.stage.diffusion * diffusion["diffusion"]
            + self.stage.distogram * distogram
        )
        parts = confidence | diffusion | {"distogram": distogram}
        self.losses = {name: part.detach() for name, part in parts.items()}
        return loss

    def noised(self, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """Return diffusion samples [B, D, A, 3] of the labels and their noise levels [B, D].

        Each sample has a random rigid motion of its own. Unresolved atoms are at the centre of the
        label.
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
    """Forward pass of the full model.

    Attributes:
        rollout_BA3: Structure that the model generated, once that phase has run.
    """

    def __init__(self, training: AlphaFold3Training, batch: Batch, step: int) -> None:
        self._training, self._batch, self._step = training, batch, step
        self._context = training.context(batch, step)
        self._state: TrunkState | None = None
        self._condition: DiffusionConditioning | None = None
        self.rollout_BA3: Tensor | None = None

    @property
    def phases(self) -> dict[str, Callable[[], None]]:
        """See `ForwardPass`."""
        return {
            "trunk": self._trunk,
            "rollout": self._rollout,
            "permutation": self._permutation,
            "diffusion": self._diffusion,
        }

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
