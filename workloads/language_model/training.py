"""The training step of a language model: AdamW, and gradients clipped to a norm of 1."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from refsys.model.initialization import initialize
from refsys.precision import Precision
from refsys.streams import Draw
from workloads.language_model.model import FAIR, LanguageModel
from workloads.language_model.presets import LanguageModelConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamWConfig:
    """AdamW as language models are trained with it.

    Attributes:
        learning_rate: Constant: what is measured does not depend on its schedule.
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
    """How a model is trained.

    Attributes:
        tokens: Length of every sequence.
        variant: ``fair``, or ``naive``: everything materialized, the optimizer a loop.
        rows: Tokens whose logits of the head exist at once, in the fair variant.
        checkpointing: Whether blocks recompute their activations in the backward pass.
        compiled: Whether blocks go through `torch.compile`.
    """

    tokens: int
    variant: str = FAIR
    rows: int = 1
    checkpointing: bool = False
    compiled: bool = False


class LanguageModelTraining:
    """A model, its optimizer, and the phases of a step.

    Attributes:
        model: What is trained.
        parameters: All of them.
        schedule: Constants of the optimizer.
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
        """Builds the model; `initialize` gives it its weights.

        Args:
            config: The preset.
            precision: The dtype table.
            options: How it is trained.
            device: Where it all lives; the default device if None.
            schedule: Constants of the optimizer.
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
        """Draws the weights."""
        initialize(self.model, seed)

    def materialize_moments(self) -> None:
        """Creates the optimizer's state ahead of the first step: for simulation alone."""
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.update()

    def optimizer_tensors(self) -> Iterable[Tensor]:
        """The moments and step counts that exist so far."""
        values = [value for state in self.optimizer.state.values() for value in state.values()]
        return [value for value in values if isinstance(value, Tensor)]

    def loss(self, text: Tensor) -> Tensor:
        """The loss of predicting each token of `text` [batch, tokens + 1] from those before it."""
        return self.model(text[:, :-1], text[:, 1:])

    def update(self) -> Tensor:
        """Clips, steps and clears the gradients; returns the norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(
            self.parameters, self.schedule.clip, foreach=self._fused
        )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def implementations(self) -> dict[str, str]:
        """What the parts that have several ways ran on in the last step."""
        return self.model.ran | {"optimizer": "fused" if self._fused else "a loop"}


def synthetic_text(
    seed: int, step: int, *, vocabulary: int, tokens: int, batch: int, first: int = 0
) -> Tensor:
    """int64 [batch, tokens + 1] ids, uniform over the vocabulary.

    Args:
        seed: Seed of the draws.
        step: The step that they are for.
        vocabulary: Ids that exist.
        tokens: Tokens that are predicted.
        batch: Sequences.
        first: Place of the first of them in the batch of all ranks.
    """
    rows = [
        Draw(seed, "synthetic/text", step, first + place).integers(tokens + 1) % vocabulary
        for place in range(batch)
    ]
    return torch.stack([torch.from_numpy(row.astype("int64")) for row in rows])
