"""Training step of a language model: AdamW, with gradients clipped to a norm of 1."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from refsys.model.initialization import initialize
from refsys.precision import Precision
from refsys.streams import Draw
from refsys.training.adam_state import create_adam_state
from workloads.language_model.model import FAIR, LanguageModel
from workloads.language_model.presets import LanguageModelConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamWConfig:
    """Hyper-parameters of AdamW that are common for language models.

    Attributes:
        learning_rate: Constant, since the measured costs do not depend on a schedule.
        beta_1: Decay of the first moment.
        beta_2: Decay of the second moment.
        epsilon: Added to the root of the second moment.
        decay: Weight decay.
        clip: Largest global gradient norm.
    """

    learning_rate: float = 3e-4
    beta_1: float = 0.9
    beta_2: float = 0.95
    epsilon: float = 1e-8
    decay: float = 0.1
    clip: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Options of training.

    Attributes:
        tokens: Length of every sequence.
        variant: ``fair``, or ``naive``: all logits materialized, the optimizer not fused.
        rows: Tokens per chunk of the loss, in the fair variant.
        checkpointing: Whether blocks recompute their activations in the backward pass.
        compiled: Whether blocks go through `torch.compile`.
    """

    tokens: int
    variant: str = FAIR
    rows: int = 1
    checkpointing: bool = False
    compiled: bool = False


class LanguageModelTraining:
    """Model, optimizer and the parts of a training step.

    Attributes:
        model: Trained model.
        parameters: All parameters of the model.
        schedule: Hyper-parameters of the optimizer.
    """

    def __init__(
        self,
        config: LanguageModelConfig,
        precision: Precision,
        options: Options,
        *,
        device: torch.device | None = None,
        schedule: AdamWConfig | None = None,
    ) -> None:
        """Create the model with uninitialized weights, and the optimizer.

        Args:
            config: Preset.
            precision: Dtype table.
            options: Options of training.
            device: Device of the model; the default device if None.
            schedule: Hyper-parameters of the optimizer.
        """
        self.schedule = schedule or AdamWConfig()
        self._fused = options.variant == FAIR
        with torch.device(device or torch.get_default_device()):
            self.model = LanguageModel(
                config,
                precision,
                tokens=options.tokens,
                variant=options.variant,
                rows=options.rows,
                checkpointing=options.checkpointing,
                compiled=options.compiled,
            )
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=self.schedule.learning_rate,
            betas=(self.schedule.beta_1, self.schedule.beta_2),
            eps=self.schedule.epsilon,
            weight_decay=self.schedule.decay,
            fused=self._fused,
            foreach=False,
        )

    def initialize(self, seed: int) -> None:
        """Initialize the weights from keyed streams."""
        initialize(self.model, seed)

    def materialize_moments(self) -> None:
        """Create the state of the optimizer before the first step, for simulation only."""
        create_adam_state(self.optimizer)

    def optimizer_tensors(self) -> Iterable[Tensor]:
        """Return the tensors in the state of the optimizer: moments and step counts."""
        values = [value for state in self.optimizer.state.values() for value in state.values()]
        return [value for value in values if isinstance(value, Tensor)]

    def loss(self, text: Tensor) -> Tensor:
        """Return the next-token loss on ids `text` [batch, tokens + 1]."""
        return self.model(text[:, :-1], text[:, 1:])

    def update(self) -> Tensor:
        """Clip gradients, step the optimizer, clear gradients; return the norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(
            self.parameters, self.schedule.clip, foreach=self._fused
        )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def implementations(self) -> dict[str, str]:
        """Return the implementation of each part of the last step that has several."""
        return self.model.ran | {"optimizer": "fused" if self._fused else "a loop"}


def synthetic_text(
    seed: int, step: int, *, vocabulary: int, tokens: int, batch: int, first: int = 0
) -> Tensor:
    """Return random ids [batch, tokens + 1] int64, uniform over the vocabulary.

    Args:
        seed: Seed of the draws.
        step: Training step (RNG key).
        vocabulary: Size of the vocabulary.
        tokens: Predicted tokens per sequence.
        batch: Number of sequences.
        first: Index of the first sequence in the global batch (RNG key).
    """
    rows = [
        Draw(seed, "synthetic/text", step, first + index).integers(tokens + 1) % vocabulary
        for index in range(batch)
    ]
    return torch.stack([torch.from_numpy(row.astype("int64")) for row in rows])
