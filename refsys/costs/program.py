"""The interface of a program whose costs are traced."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from torch import Tensor, nn


class Program(Protocol):
    """Phases that run in order and make up a step."""

    @property
    def phases(self) -> tuple[str, ...]:
        """Names of the phases, in order."""

    @property
    def forward_phases(self) -> tuple[str, ...]:
        """Phases of the forward pass: tensors that they leave alive are activations."""

    @property
    def module(self) -> nn.Module | None:
        """The model, to whose modules costs are attributed; None if there is none."""

    def run(self, phase: str) -> None:
        """Run one phase of the current step."""

    def tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """Return the tensors that live between steps by state: ``parameters``, ``inputs``, ..."""
