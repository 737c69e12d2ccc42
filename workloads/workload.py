"""The contract of a workload: its axes, its exact facts, and the program that it builds."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from workloads.errors import WorkloadError

Value = str | int | float | bool
Config = dict[str, Value]


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One thing that a case chooses.

    Attributes:
        name: Its name in sweeps, records and on the command line.
        default: Its value where a case says nothing; its type is the axis's type.
        meaning: One line for people.
        choices: The values that it may take; any if empty.
        minimum: The smallest number that it may be.
        maximum: The largest.
        titled: Whether a case's title says it even where it is the default.
    """

    name: str
    default: Value
    meaning: str
    choices: tuple[Value, ...] = ()
    minimum: int | None = None
    maximum: int = 2**20
    titled: bool = False

    def parse(self, value: object) -> Value:
        """`value` as this axis's type; text is read.

        Raises:
            WorkloadError: it is of another type, or not among the choices.
        """
        kind = type(self.default)
        parsed = _from_text(value, kind) if isinstance(value, str) else value
        if kind is float and isinstance(parsed, int) and not isinstance(parsed, bool):
            parsed = float(parsed)
        if type(parsed) is not kind:
            raise WorkloadError(f"{self.name}={value!r} is not of type {kind.__name__}")
        if self.choices and parsed not in self.choices:
            raise WorkloadError(
                f"{self.name}={value!r} does not exist; choose one of "
                f"{', '.join(map(str, self.choices))}"
            )
        if isinstance(parsed, int | float) and not isinstance(parsed, bool):
            if self.minimum is not None and not parsed >= self.minimum:
                raise WorkloadError(f"{self.name}={value} is less than {self.minimum}")
            if not parsed <= self.maximum:
                raise WorkloadError(f"{self.name}={value!s:.40} is more than {self.maximum}")
        return parsed


def _from_text(text: str, kind: type) -> object:
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return kind(text)
    except ValueError:
        return text


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What is exactly known of a case without running it.

    Attributes:
        parameters: Number of parameters, frozen ones included.
        components: The same by component.
        forward_flops: Floating-point operations of one forward pass over one batch, 2 for each
            multiply-add of the matrix products.
        forward_flops_by_component: The same by component.
        step_flops: Model FLOPs of a training step: the forward pass, and twice the part of it that
            is differentiated; no recomputation.
        arithmetic: The dtype of the matrix products, as torch names it.
        minimum_bytes: Bytes that any implementation of a step must move: parameters and optimizer
            state read and written once, gradients written and read once, the batch read once.
        exponentials: That any implementation of a step must take of softmax's logits, where they
            are known; 0 otherwise.
        instructions: Of single threads, beside matrix products and loads, that those logits take
            at the least.
        notes: What the numbers assume.
    """

    parameters: int
    components: Mapping[str, int]
    forward_flops: int
    forward_flops_by_component: Mapping[str, int]
    step_flops: int
    arithmetic: str
    minimum_bytes: int
    exponentials: int = 0
    instructions: int = 0
    notes: tuple[str, ...] = ()


class Program(ABC):
    """One case, built on one device: phases that run in order, again and again.

    Attributes:
        phases: Their names, in the order in which they make up a step.
        host_phases: Those of them that are the host's work, and are left out of counts.
        forward_phases: Those of them that make up a forward pass: what they leave alive are
            activations.
        repeatable: Whether a step may run again and again on the same tensors with none of the
            host's work in between, as a captured graph of it does.
    """

    phases: tuple[str, ...]
    repeatable: bool = False
    forward_phases: tuple[str, ...] = ("forward",)
    host_phases: tuple[str, ...] = ("data",)

    @abstractmethod
    def run(self, phase: str) -> None:
        """Runs one phase of the current step. Work on an accelerator may still be under way."""

    @property
    def module(self) -> nn.Module | None:
        """The model, for attributing costs to its modules; None if there is none."""
        return None

    def tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """The tensors that live between steps, by state: parameters, optimizer, inputs."""
        return {}

    def outcome(self) -> dict[str, float]:
        """What the last step computed that a record should keep, as in its loss."""
        return {}

    def implementations(self) -> dict[str, str]:
        """What each operator ran on since this was last asked, where there is a choice."""
        return {}

    def notes(self) -> dict[str, Any]:
        """What happened that a record should say, as in operators that fell back."""
        return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Where a program is built.

    Attributes:
        device: Where its tensors live.
        store: The folder of prepared inputs.
        seed: Seed of everything random.
        rank: Which of the processes that work on the case together this is.
        ranks: How many there are.
    """

    device: torch.device
    store: Path
    seed: int = 0
    rank: int = 0
    ranks: int = 1


class Workload(ABC):
    """A named family of cases.

    Attributes:
        name: As in sweeps and on the command line.
        summary: One line for people.
        axes: What a case chooses.
        data_parallel: Whether several ranks may work on a case, each on examples of its own.
        device_check: Part of a device check that it serves: ``single operator``, ``device rates``
            or ``training step``; empty if none.
        selections: The cases that stand for it where all workloads are covered, by use. A case is
            a table of axes, and a list in it stands for each of its values. The uses are
            ``exact`` (traced with shapes alone, at any size), ``timing`` (a step takes 5 to 300 ms
            of one CPU core) and ``quick`` (measured in seconds on a CPU).
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    axes: ClassVar[tuple[Axis, ...]]
    data_parallel: ClassVar[bool] = False
    device_check: ClassVar[str] = ""
    selections: ClassVar[Mapping[str, Sequence[Mapping[str, Any]]]] = {}

    def selection(self, use: str) -> Sequence[Mapping[str, Any]]:
        """Its cases for a use; one case, all defaults, where it says nothing."""
        return self.selections.get(use, ({},))

    def configure(self, values: Mapping[str, object]) -> Config:
        """The full configuration of a case: every axis, defaults filled in.

        Raises:
            WorkloadError: an axis is unknown, or a value does not fit.
        """
        axes = {axis.name: axis for axis in self.axes}
        for name in values:
            if name not in axes:
                raise WorkloadError(
                    f"{self.name} has no axis {name!r}; its axes are {', '.join(axes)}"
                )
        return {
            name: axis.parse(values[name]) if name in values else axis.default
            for name, axis in axes.items()
        }

    @abstractmethod
    def facts(self, config: Config) -> Facts:
        """The exact facts of a case, without allocating it."""

    def unsupported_reason(self, config: Config, device: torch.device) -> str | None:
        """Return why a case cannot run on a device, as far as that is known without building it.

        Args:
            config: Every axis.
            device: The device of each of its ranks.
        """
        del config, device
        return None

    @abstractmethod
    def build(self, config: Config, setting: Setting) -> Program:
        """The case's program.

        Raises:
            UnsupportedError: this machine cannot run it.
            Exception: anything else is a fault of the workload.
        """

    @abstractmethod
    def build_abstract(self, config: Config) -> Program:
        """The program for shapes alone: called, and run, under a fake tensor mode.

        It has the phases that compute; inputs are placeholders of the right shapes and dtypes.
        """

    def entries(self, config: Config) -> frozenset[str]:
        """Return the names of the prepared entries that the case reads, be they prepared or not."""
        del config
        return frozenset()

    def inputs(self, config: Config, store: Path) -> dict[str, str]:
        """The prepared inputs that the case reads: a name for its content by what each is.

        Raises:
            UnsupportedError: they are not there; the message says what to do.
        """
        del config, store
        return {}

    def title(self, config: Config) -> str:
        """One line for people: what tells the case from its like."""
        chosen = [
            f"{axis.name}={config[axis.name]}"
            for axis in self.axes
            if axis.titled or config[axis.name] != axis.default
        ]
        return " ".join([self.name, *chosen])

    def labels(self, config: Config) -> dict[str, Value]:
        """What views of records group by.

        Returns:
            ``tokens``, the problem size; ``series``, what is measured, and ``variant``, how: lines
            of a figure; ``synthetic``, whether the inputs are.
        """
        others = [
            f"{axis.name}={config[axis.name]}"
            for axis in self.axes
            if axis.name != "tokens" and config[axis.name] != axis.default
        ]
        return {
            "tokens": config.get("tokens", 0),
            "series": self.name,
            "variant": ", ".join(others),
            "synthetic": False,
        }


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Workloads by name, and why others could not be loaded."""

    workloads: Mapping[str, Workload]
    broken: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Workload:
        """The workload of that name.

        Raises:
            WorkloadError: there is none, or it could not be loaded.
        """
        if name in self.broken:
            raise WorkloadError(f"workload {name!r} cannot be loaded: {self.broken[name]}")
        try:
            return self.workloads[name]
        except KeyError:
            raise WorkloadError(
                f"workload {name!r} does not exist; choose one of {', '.join(self.workloads)}"
            ) from None
