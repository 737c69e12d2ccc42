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
from refsys.losses.trunk import trunk_loss
from refsys.model.chunks import ALL_AT_ONCE, Chunks
from refsys.model.context import Context
from refsys.model.initialization import initialize
from refsys.model.recycling import ComponentModel
from refsys.model.trunk import Trunk
from refsys.parallel import Layout, SingleRank
from refsys.precision import Precision
from refsys.streams import recycling_iterations


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
        average: Decay of the exponential moving average of the parameters, before its bias
            correction.
    """

    learning_rate: float = 1.8e-3
    warmup_steps: int = 1000
    decay_every: int = 50_000
    decay: float = 0.95
    beta_1: float = 0.9
    beta_2: float = 0.95
    epsilon: float = 1e-8
    clip: float = 10.0
    average: float = 0.999

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warmup = min(1.0, (step + 1) / self.warmup_steps)
        return self.learning_rate * warmup * self.decay ** (step // self.decay_every)

    def average_weight(self, step: int) -> float:
        """Return the weight of a step's parameters in the average after it, steps counted from 0.

        With decay d, the average after step t is the mean of the parameters after steps 0 to t,
        weighted by d^t, ..., d, 1: an exponential moving average with the bias correction of Adam,
        in which the initial weights have no part.
        """
        return (1.0 - self.average) / (1.0 - self.average ** (step + 1))


# Labels of a batch that lie best on predicted positions [B, A, 3] of a step.
Relabel = Callable[[Batch, Tensor, int], Batch]


class ForwardPass(ABC):
    """A forward pass in the phases that are measured.

    Attributes:
        loss: The scalar that is minimized, once all phases have run.
    """

    loss: Tensor | None = None

    @abstractmethod
    def run(self, phase: str) -> None:
        """Runs a phase; each runs once, in order."""


class Training(ABC):
    """A model, its optimizer, and the phases of a step.

    Attributes:
        forward_phases: Names of the phases of a forward pass.
        host_phases: Those of them that wait for the device and work on the host.
        model: What is trained; it names its components.
        parameters: Those that are trained.
        averages: Their bias-corrected exponential moving averages.
        cycles: Recycling iterations of a step, at most.
        losses: Every part of the last loss, as scalars on the device.
        relabel: Permutes labels among what cannot be told apart; they stay if None. For models
            that predict positions.
    """

    relabel: Relabel | None = None
    forward_phases: tuple[str, ...]
    host_phases: tuple[str, ...] = ()
    model: ComponentModel
    cycles: int

    def __init__(
        self,
        build: Callable[[], ComponentModel],
        precision: Precision,
        *,
        seed: int = 0,
        cycles: int = 1,
        draw_cycles: bool = False,
        checkpointing: bool = True,
        dropout: bool = True,
        chunks: Chunks | None = None,
        optimizer: OptimizerConfig | None = None,
        layout: Callable[[int], Layout] = SingleRank,
        device: torch.device | None = None,
    ) -> None:
        """Builds the model; `initialize` gives it its weights.

        Args:
            build: Makes the model on the default device.
            precision: The dtype table.
            seed: Seed of initialization, dropout and noise.
            cycles: Recycling iterations of a step.
            draw_cycles: Whether each step draws its own number of them, from 1 to `cycles`, the
                same on all ranks.
            checkpointing: Whether blocks recompute their activations in the backward pass.
            dropout: Whether dropout is on.
            chunks: How much of a large intermediate is made at once; all of it if None.
            optimizer: Adam and its schedule.
            layout: Makes the layout of a batch from its number of tokens.
            device: Where it all lives; the default device if None.
        """
        self.precision = precision
        self.seed = seed
        self.cycles = cycles
        self.draw_cycles = draw_cycles
        self.checkpointing = checkpointing
        self.dropout = dropout
        self.chunks = chunks or ALL_AT_ONCE
        self.schedule = optimizer or OptimizerConfig()
        self.layout = layout
        with torch.device(device or torch.get_default_device()):
            self.model = build()
        self.losses: dict[str, Tensor] = {}
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.averages = [torch.empty_like(p, requires_grad=False) for p in self.parameters]
        # One fused kernel on every device, so that what a CPU counts is what a GPU runs.
        self.optimizer = torch.optim.Adam(
            self.parameters,
            lr=self.schedule.rate(0),
            betas=(self.schedule.beta_1, self.schedule.beta_2),
            eps=self.schedule.epsilon,
            fused=True,
        )

    def initialize(self) -> None:
        """Draw the weights from the seed; until the first step they are their own average."""
        initialize(self.model, self.seed)
        self.restart_averages()

    @torch.no_grad()
    def restart_averages(self) -> None:
        """Make the parameters their own average, until the first step."""
        for average, parameter in zip(self.averages, self.parameters, strict=True):
            average.copy_(parameter)

    def optimizer_tensors(self) -> list[Tensor]:
        """The averages, and the moments and step counts that exist so far."""
        values = [value for state in self.optimizer.state.values() for value in state.values()]
        return [*self.averages, *(value for value in values if isinstance(value, Tensor))]

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
            chunks=self.chunks,
        )

    def cycles_of(self, step: int) -> int:
        """Recycling iterations of a step."""
        if not self.draw_cycles:
            return self.cycles
        return recycling_iterations(self.seed, self.cycles, step)

    @abstractmethod
    def begin(self, batch: Batch, step: int) -> ForwardPass:
        """A forward pass of which no phase has run."""

    def forward(self, batch: Batch, step: int) -> Tensor:
        """The scalar loss of a batch: all phases but those of the host."""
        passing = self.begin(batch, step)
        for phase in self.forward_phases:
            if phase not in self.host_phases:
                passing.run(phase)
        assert passing.loss is not None, "the last phase makes the loss"
        return passing.loss

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
        """Clip, step, clear the gradients and average; return the norm before clipping.

        Args:
            step: Steps that were done before, since the weights were initialized or loaded.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.schedule.clip, foreach=True)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            current: list[Tensor] = list(self.parameters)
            torch._foreach_lerp_(self.averages, current, self.schedule.average_weight(step))
        return norm


class TrunkTraining(Training):
    """The trunk alone, trained by its distogram."""

    forward_phases = ("forward",)
    model: Trunk

    def __init__(self, config: ModelConfig, precision: Precision, **options: Any) -> None:
        """See `Training`, whose options these are."""
        super().__init__(lambda: Trunk(config, precision), precision, **options)

    def begin(self, batch: Batch, step: int) -> ForwardPass:
        """See `Training`."""
        return _TrunkPass(self, batch, step)

    def is_differentiated(self) -> bool:
        """See `Training`."""
        return self.cycles == 1

    def differentiated(self, batch: Batch) -> None:
        """See `Training`: of the cycles, the last."""
        self.model(batch, self.context(batch, 0), 1)


class _TrunkPass(ForwardPass):
    def __init__(self, training: TrunkTraining, batch: Batch, step: int) -> None:
        self._training, self._batch, self._step = training, batch, step

    def run(self, phase: str) -> None:
        del phase
        training, batch = self._training, self._batch
        context = training.context(batch, self._step)
        output = training.model(batch, context, training.cycles_of(self._step))
        self.loss = trunk_loss(output, batch, context.layout, training.precision)
