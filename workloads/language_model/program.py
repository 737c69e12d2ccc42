"""Training of the language model as a program with phases."""

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor, nn

from refsys.parallel.data_parallel import GradientAverage, stacked_blocks
from workloads.language_model.training import LanguageModelTraining
from workloads.workload import Program


class LanguageModelProgram(Program):
    """Training program; each step has a different text."""

    phases: tuple[str, ...] = ("data", "forward", "backward", "optimizer")

    def __init__(self, training: LanguageModelTraining, source: Callable[[int], Tensor]) -> None:
        self._training = training
        self._source = source
        self._step = -1
        self._text: Tensor | None = None
        self._loss: Tensor | None = None
        self._average: GradientAverage | None = None
        self._ran: dict[str, str] = {}

    def average_over_ranks(self) -> None:
        """Add a phase that averages the gradients over all ranks."""
        blocks = stacked_blocks(self._training.model)
        self._average = GradientAverage(self._training.parameters, blocks=blocks)
        before = self.phases.index("optimizer")
        self.phases = (*self.phases[:before], "all_reduce", *self.phases[before:])

    def run(self, phase: str) -> None:
        """See `Program`."""
        self._phases()[phase]()

    def _phases(self) -> dict[str, Callable[[], None]]:
        return {
            "data": self._data,
            "forward": self._forward,
            "backward": self._backward,
            "all_reduce": self._all_reduce,
            "optimizer": self._optimizer,
        }

    def _data(self) -> None:
        self._step += 1
        self._text = None
        self._text = self._source(self._step)

    def _forward(self) -> None:
        assert self._text is not None, "the data phase must run first"
        self._loss = None
        self._loss = self._training.loss(self._text)
        self._ran = self._training.implementations()

    def _backward(self) -> None:
        assert self._loss is not None, "the forward phase must run first"
        self._loss.backward()
        self._loss = self._loss.detach()

    def _all_reduce(self) -> None:
        assert self._average is not None, "call average_over_ranks before this phase"
        self._average.wait()

    def _optimizer(self) -> None:
        self._training.update()

    @property
    def module(self) -> nn.Module:
        """See `Program`."""
        return self._training.model

    def tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """See `Program`."""
        return {
            "parameters": self._training.parameters,
            "optimizer": self._training.optimizer_tensors(),
            "constants": self._training.model.positions.constants,
            "inputs": [] if self._text is None else [self._text],
        }

    def outcome(self) -> dict[str, float]:
        """See `Program`."""
        if self._loss is None or self._text is None:
            return {}
        return {"loss": float(self._loss.detach()), "tokens": float(self._text.shape[1] - 1)}

    def implementations(self) -> dict[str, str]:
        """See `Program`."""
        ran, self._ran = self._ran, {}
        return ran
