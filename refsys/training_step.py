"""One training step, in the phases that are measured.

Nothing in `forward`, `backward` or `update` reads a value back to the host or has a shape that
depends on data, so that a step can be traced under fake tensors and captured.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from refsys.batch import Batch
from refsys.config import ModelConfig
from refsys.losses import trunk_loss
from refsys.model.context import Context
from refsys.model.initialization import initialize
from refsys.model.recycling import ComponentModel
from refsys.model.trunk import Trunk
from refsys.parallel import Layout, SingleRank
from refsys.precision import Precision


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """Adam and its schedule, as AlphaFold 3 is trained.

    Attributes:
        learning_rate: At the end of the warm-up.
        warmup_steps: Steps of linear warm-up.
        decay_every: Steps between decays.
        decay: Factor of each decay.
        beta_1: Decay of the first moment.
        beta_2: Decay of the second moment.
        epsilon: Added to the root of the second moment.
        clip: Largest global gradient norm.
    """

    learning_rate: float = 1.8e-3
    warmup_steps: int = 1000
    decay_every: int = 50_000
    decay: float = 0.95
    beta_1: float = 0.9
    beta_2: float = 0.95
    epsilon: float = 1e-8
    clip: float = 10.0

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warmup = min(1.0, (step + 1) / self.warmup_steps)
        return self.learning_rate * warmup * self.decay ** (step // self.decay_every)


class Training(ABC):
    """A model, its optimizer, and the phases of a step.

    Attributes:
        model: What is trained; it names its components.
        parameters: Those that are trained.
        cycles: Recycling iterations of every step.
    """

    model: ComponentModel
    cycles: int

    def __init__(
        self,
        build: Callable[[], ComponentModel],
        precision: Precision,
        *,
        seed: int = 0,
        cycles: int = 1,
        checkpointing: bool = True,
        dropout: bool = True,
        optimizer: OptimizerConfig | None = None,
        layout: Callable[[int], Layout] = SingleRank,
        device: torch.device | None = None,
    ) -> None:
        """Builds the model; `initialize` gives it its weights.

        Args:
            build: Makes the model on the default device.
            precision: The dtype table.
            seed: Seed of initialization, dropout and noise.
            cycles: Recycling iterations of every step.
            checkpointing: Whether blocks recompute their activations in the backward pass.
            dropout: Whether dropout is on.
            optimizer: Adam and its schedule.
            layout: Makes the layout of a batch from its number of tokens.
            device: Where it all lives; the default device if None.
        """
        self.precision = precision
        self.seed = seed
        self.cycles = cycles
        self.checkpointing = checkpointing
        self.dropout = dropout
        self.schedule = optimizer or OptimizerConfig()
        self.layout = layout
        with torch.device(device or torch.get_default_device()):
            self.model = build()
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        # One fused kernel on every device, so that what a CPU counts is what a GPU runs.
        self.optimizer = torch.optim.Adam(
            self.parameters,
            lr=self.schedule.rate(0),
            betas=(self.schedule.beta_1, self.schedule.beta_2),
            eps=self.schedule.epsilon,
            fused=True,
        )

    def initialize(self) -> None:
        """Draws the weights from the seed."""
        initialize(self.model, self.seed)

    def optimizer_tensors(self) -> list[Tensor]:
        """The moments and step counts that exist so far."""
        states = self.optimizer.state.values()
        return [value for state in states for value in state.values() if isinstance(value, Tensor)]

    def materialize_moments(self) -> None:
        """Creates the optimizer's state ahead of the first step: for simulation alone."""
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def context(self, batch: Batch, step: int) -> Context:
        """What a forward pass of this step needs beside the batch."""
        return Context(
            layout=self.layout(batch.sizes["token"]),
            seed=self.seed if self.dropout else None,
            step=step,
            example=batch["example"].unsqueeze(1),
            checkpointing=self.checkpointing,
        )

    @abstractmethod
    def forward(self, batch: Batch, step: int) -> Tensor:
        """The scalar loss of a batch."""

    def is_differentiated(self) -> bool:
        """Whether gradients flow through all of a forward pass."""
        return False

    @abstractmethod
    def differentiated(self, batch: Batch) -> None:
        """The part of a forward pass that gradients flow through: for counting alone."""

    def backward(self, loss: Tensor) -> None:
        """Gradients of every trained parameter."""
        loss.backward()

    def update(self, step: int) -> Tensor:
        """Clips, steps and clears the gradients; returns their norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.schedule.clip, foreach=True)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm


class TrunkTraining(Training):
    """The trunk alone, trained by its distogram."""

    model: Trunk

    def __init__(self, config: ModelConfig, precision: Precision, **options: Any) -> None:
        """See `Training`, whose options these are."""
        super().__init__(lambda: Trunk(config, precision), precision, **options)

    def forward(self, batch: Batch, step: int) -> Tensor:
        """See `Training`."""
        context = self.context(batch, step)
        output = self.model(batch, context, self.cycles)
        return trunk_loss(output, batch, context.layout, self.precision)

    def is_differentiated(self) -> bool:
        """See `Training`."""
        return self.cycles == 1

    def differentiated(self, batch: Batch) -> None:
        """See `Training`: of the cycles, the last."""
        self.model(batch, self.context(batch, 0), 1)
