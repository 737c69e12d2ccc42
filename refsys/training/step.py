"""A model in training: its forward pass in phases, its gradients and its update.

Nothing in `forward`, `backward` or `update` reads a value back to the host or has a shape that
depends on data, so that a step can be traced under fake tensors and captured. Host phases, such as
label permutation, are separate.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from refsys.batch import Batch
from refsys.config import ModelConfig
from refsys.losses.trunk import trunk_loss
from refsys.model.chunks import ALL_AT_ONCE, Chunks
from refsys.model.context import Context
from refsys.model.initialization import initialize
from refsys.model.offload import Offload
from refsys.model.recycling import ComponentModel
from refsys.model.trunk import Trunk
from refsys.parallel.batch_layouts import Layouts, SingleRankLayouts
from refsys.precision import Precision
from refsys.run_config import OptimizerConfig
from refsys.streams import recycling_iterations
from refsys.training.adam_state import create_adam_state

if TYPE_CHECKING:
    from refsys.parallel.mesh import RunRanks
    from refsys.parallel.parameter_shards import Entry

# Returns a step's batch with the labels that fit predicted positions [B, A, 3] best.
Relabel = Callable[[Batch, Tensor, int], Batch]


class ForwardPass(ABC):
    """Forward pass of one step, phase by phase.

    Attributes:
        loss: Scalar that is minimized, once all phases have run.
    """

    loss: Tensor | None = None

    @property
    @abstractmethod
    def phases(self) -> dict[str, Callable[[], None]]:
        """Function of each phase, in order; each is called once.

        They are not stored, since a cycle of references would keep activations alive.
        """


class Training(ABC):
    """A model, its losses and its optimizer.

    Attributes:
        forward_phases: Names of the phases of a forward pass.
        host_phases: Forward phases that wait for the device and work on the host.
        model: Model that is trained; it names its components.
        parameters: Parameters that are trained; this rank's parts if they are sharded.
        averages: Bias-corrected exponential moving averages of the parameters.
        cycles: Largest number of recycling iterations of a step.
        layouts: Layouts of the batches.
        entry: Module in whose call forward passes run; None unless parameters are sharded.
        losses: Every part of the last loss, as scalars on the device.
        relabel: Permutes labels among equivalent chains and atoms, for models that predict
            positions; None leaves them.
    """

    relabel: Relabel | None = None
    entry: "Entry | None" = None
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
        offload_checkpoints: bool = False,
        dropout: bool = True,
        chunks: Chunks | None = None,
        optimizer: OptimizerConfig | None = None,
        layouts: Layouts | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Build the model; `initialize` sets its weights.

        Args:
            build: Function that builds the model on the default device.
            precision: Dtype table.
            seed: Seed of initialization, dropout and noise.
            cycles: Recycling iterations of a step.
            draw_cycles: Whether each step samples its number of recycling iterations, from 1 to
                `cycles`, the same on all ranks.
            checkpointing: Whether blocks recompute their activations in the backward pass.
            offload_checkpoints: Whether their arguments wait for it in host memory.
            dropout: Whether dropout is on.
            chunks: Part of a large intermediate that is computed at once; all of it if None.
            optimizer: Adam and its schedule.
            layouts: Layouts of the batches; one rank if None.
            device: Device of the model; the default device if None.
        """
        self.precision = precision
        self.seed = seed
        self.cycles = cycles
        self.draw_cycles = draw_cycles
        self.checkpointing = checkpointing
        self.offload_checkpoints = offload_checkpoints
        self.dropout = dropout
        self.chunks = chunks or ALL_AT_ONCE
        self.schedule = optimizer or OptimizerConfig()
        self.layouts = layouts or SingleRankLayouts()
        with torch.device(device or torch.get_default_device()):
            self.model = build()
        self.losses: dict[str, Tensor] = {}
        self._optimize([p for p in self.model.parameters() if p.requires_grad])

    def _optimize(self, parameters: list[nn.Parameter]) -> None:
        """Set the trained parameters, and their averages and optimizer without values."""
        self.parameters = parameters
        self.averages = [torch.empty_like(p, requires_grad=False) for p in self.parameters]
        # One fused kernel on every device, so that what a CPU counts is what a GPU runs.
        self.optimizer = torch.optim.Adam(
            self.parameters,
            lr=self.schedule.rate(0),
            betas=(self.schedule.beta_1, self.schedule.beta_2),
            eps=self.schedule.epsilon,
            fused=True,
        )

    def shard(self, ranks: "RunRanks") -> None:
        """Divide parameters, gradients, averages and optimizer state among several ranks.

        The weights are set before; from now on, forward passes run inside a call of `entry`.
        """
        from refsys.parallel.parameter_shards import shard

        self.entry = shard(self.model, self.model.stacked_blocks(), ranks)
        self._optimize(self.entry.parts)
        self.restart_averages()

    def initialize(self) -> None:
        """Sample the weights from the seed; until the first step they are their own average."""
        initialize(self.model, self.seed)
        self.restart_averages()

    @torch.no_grad()
    def restart_averages(self) -> None:
        """Make the parameters their own average, until the first step."""
        for average, parameter in zip(self.averages, self.parameters, strict=True):
            average.copy_(parameter)

    def optimizer_tensors(self) -> list[Tensor]:
        """Return the averages, and the moments and step counts that exist so far."""
        values = [value for state in self.optimizer.state.values() for value in state.values()]
        return [*self.averages, *(value for value in values if isinstance(value, Tensor))]

    def materialize_moments(self) -> None:
        """Create the optimizer's state ahead of the first step, for tracing and restoring."""
        create_adam_state(self.optimizer)

    def context(self, batch: Batch, step: int) -> Context:
        """Return the context of a step's forward pass: layout, RNG keys, memory options."""
        return Context(
            layout=self.layouts.of(batch),
            seed=self.seed if self.dropout else None,
            step=step,
            example=batch["example"].unsqueeze(1),
            checkpointing=self.checkpointing,
            offload=Offload() if self.offload_checkpoints else None,
            chunks=self.chunks,
        )

    def cycles_of(self, step: int) -> int:
        """Return the number of recycling iterations of a step."""
        if not self.draw_cycles:
            return self.cycles
        return recycling_iterations(self.seed, self.cycles, step)

    @abstractmethod
    def begin(self, batch: Batch, step: int) -> ForwardPass:
        """Return a forward pass of which no phase has run."""

    def forward(self, batch: Batch, step: int) -> Tensor:
        """Return the scalar loss of a batch, from all phases but those of the host."""
        forward_pass = self.begin(batch, step)
        for name, run in forward_pass.phases.items():
            if name not in self.host_phases:
                run()
        assert forward_pass.loss is not None, "the last phase computes the loss"
        return forward_pass.loss

    def is_differentiated(self) -> bool:
        """Return whether gradients flow through all of a forward pass."""
        return False

    @abstractmethod
    def differentiated(self, batch: Batch) -> None:
        """Run the part of a forward pass that gradients flow through, for counting alone."""

    def backward(self, loss: Tensor) -> None:
        """Compute the gradient of every trained parameter."""
        loss.backward()

    def update(self, step: int) -> Tensor:
        """Clip, step, clear the gradients and average; return the norm before clipping.

        Args:
            step: Steps that were done before, since the weights were initialized or loaded.
        """
        clip = self.schedule.clip
        if self.entry is None:
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, clip, foreach=True)
        else:
            norm = self.entry.clip_gradients(clip)
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
        """See `Training`; gradients flow through the last recycling iteration."""
        self.model(batch, self.context(batch, 0), 1)


class _TrunkPass(ForwardPass):
    def __init__(self, training: TrunkTraining, batch: Batch, step: int) -> None:
        self._training, self._batch, self._step = training, batch, step

    @property
    def phases(self) -> dict[str, Callable[[], None]]:
        return {"forward": self._forward}

    def _forward(self) -> None:
        training, batch = self._training, self._batch
        context = training.context(batch, self._step)
        output = training.model(batch, context, training.cycles_of(self._step))
        self.loss = trunk_loss(output, batch, context.layout, training.precision)
