"""Steps of training: the same object for training, measuring and tracing.

A `Trainer` joins a model in training (`refsys.training.step.Training`), its batches and the
averaging of gradients over ranks. Its phases are functions that are called in order:
``data``, the phases of the forward pass, ``backward``, ``all_reduce`` with several ranks, and
``optimizer``. Where parameters are sharded, ``forward`` stands for all phases of the forward pass,
which then runs inside one call, and gradients are reduced during ``backward``.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from refsys import ops
from refsys.batch import Batch
from refsys.parallel.data_parallel import GradientAverage
from refsys.parallel.ledger import LEDGER
from refsys.parallel.monitor import explained
from refsys.run_config import DEFAULT_BACKEND, RunConfig
from refsys.training.loading import Loading
from refsys.training.step import ForwardPass, Training

if TYPE_CHECKING:
    from refsys.parallel.parameter_shards import Entry


class Trainer:
    """Training steps of one rank, phase by phase.

    Attributes:
        config: Configuration of the run.
        training: Model, losses and optimizer.
        average: Average of the gradients over data ranks; None with one rank, or where parameters
            are sharded.
        forward_phases: Names of the phases of the forward pass.
        host_phases: Names of the phases that are the host's work.
        step: Number of the step in progress, from 0.
        batch: Its batch, on the device.
        loading: Its batch as it was loaded.
        loss: Its loss, from the last forward phase on.
        gradient_norm: Global norm of its gradients before clipping, after the last phase.
    """

    def __init__(
        self,
        config: RunConfig,
        training: Training,
        batches: Iterator[Loading],
        *,
        average: GradientAverage | None = None,
        entry: "Entry | None" = None,
        done: int = 0,
    ) -> None:
        """Join the parts; nothing runs.

        Args:
            config: Configuration of the run.
            training: Model, losses and optimizer, with their weights.
            batches: Batches of the steps, in order.
            average: Average of the gradients over data ranks; None with one rank, or where
                parameters are sharded.
            entry: Module in whose call forward passes run; None unless parameters are sharded.
            done: Steps that were done before.
        """
        self.config = config
        self.training = training
        self.average = average
        self.forward_phases = training.forward_phases
        self.host_phases = ("data", *training.host_phases)
        if entry is not None:
            self.forward_phases, self.host_phases = ("forward",), ("data",)
        self.step = done - 1
        self.batch: Batch | None = None
        self.loading: Loading | None = None
        self.loss: Tensor | None = None
        self.gradient_norm: Tensor | None = None
        self._batches = batches
        self._entry = entry
        self._pass: ForwardPass | None = None

    @property
    def phases(self) -> dict[str, Callable[[], None]]:
        """Function of each phase, in the order in which they make up a step."""
        reduce = {} if self.average is None else {"all_reduce": self._all_reduce}
        forward = {name: partial(self._forward, name) for name in self.forward_phases}
        if self._entry is not None:
            forward = {"forward": partial(self._forward_inside, self._entry)}
        phases: dict[str, Callable[[], None]] = {
            "data": self._data,
            **forward,
            "backward": self._backward,
            **reduce,
            "optimizer": self._optimizer,
        }
        return {name: partial(self._counted, name, run) for name, run in phases.items()}

    @property
    def sampled_step(self) -> int:
        """Step whose random choices the step in progress has."""
        return self.config.sampled_step(max(self.step, 0))

    def backend(self) -> AbstractContextManager[None]:
        """Return the context of the configured implementation of the operators."""
        backend = self.config.backend
        return nullcontext() if backend == DEFAULT_BACKEND else ops.use_backend(backend)

    def scalars(self) -> Tensor:
        """Return loss, gradient norm and all parts of the loss, float64 on the device."""
        assert self.loss is not None, "no forward pass has run"
        assert self.gradient_norm is not None, "the optimizer has not run"
        values = (self.loss, self.gradient_norm, *self.training.losses.values())
        return torch.stack([value.detach().double() for value in values])

    def _counted(self, name: str, run: Callable[[], None]) -> None:
        with LEDGER.during(name), explained():
            run()

    def _data(self) -> None:
        self.step += 1
        self.batch = self.loading = None
        self.loading = next(self._batches)
        self.training.layouts.plan(self.loading.sent.host)
        self.batch = self.loading.sent.arrived()

    def _begin(self) -> ForwardPass:
        assert self.batch is not None, "the data phase comes first"
        self.loss = None
        return self.training.begin(self.batch, self.sampled_step)

    def _forward_inside(self, entry: "Entry") -> None:
        forward_pass = self._begin()

        def run() -> Tensor:
            for name, phase in forward_pass.phases.items():
                self._counted(name, phase)
            assert forward_pass.loss is not None, "the last phase computes the loss"
            return forward_pass.loss

        with self.backend():
            self.loss = entry(run)

    def _forward(self, name: str) -> None:
        if name == self.forward_phases[0]:
            self._pass = self._begin()
        assert self._pass is not None, "the first forward phase comes first"
        with self.backend():
            self._pass.phases[name]()
        if name == self.forward_phases[-1]:
            self.loss, self._pass = self._pass.loss, None

    def _backward(self) -> None:
        assert self.loss is not None, "the forward phases come first"
        with self.backend():
            self.training.backward(self.loss)
        self.loss = self.loss.detach()

    def _all_reduce(self) -> None:
        assert self.average is not None, "one rank has no gradients to average"
        self.average.wait()

    def _optimizer(self) -> None:
        with self.backend():
            self.gradient_norm = self.training.update(self.step)
