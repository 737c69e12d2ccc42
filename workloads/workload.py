"""Contract of a workload: its configuration, its exact costs, and the program that it builds."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from refsys.errors import ArgumentError
from refsys.options import Option, Value, configured, options_of, values_of
from workloads.errors import WorkloadError

# Configuration of a case: a frozen dataclass whose leaves are declared with `option`.
C = TypeVar("C")
# The same where the workload is not known.
Config: TypeAlias = Any
# Value of each axis of a case by name, as records and sweeps have it.
Axes = dict[str, Value]


@dataclass(frozen=True, kw_only=True, slots=True)
class StaticCosts:
    """Exact costs of a case, known without running it.

    Attributes:
        parameters: Number of parameters, including frozen ones.
        components: Number of parameters by component.
        forward_flops: Floating-point operations of one forward pass over one batch, 2 for each
            multiply-add of the matrix products.
        forward_flops_by_component: `forward_flops` by component.
        step_flops: Model FLOPs of a training step: the forward pass, and twice the part of it that
            is differentiated; no recomputation.
        arithmetic: Dtype of the matrix products, by its torch name.
        minimum_bytes: Bytes that any implementation of a step must move: parameters and optimizer
            state read and written once, gradients written and read once, the batch read once.
        exponentials: Minimum number of exponentials of softmax logits; 0 if unknown.
        instructions: Minimum number of single-thread instructions for those logits, without matrix
            products and loads.
        notes: Assumptions of the numbers.
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

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self) | {"notes": list(self.notes)}


class Program(ABC):
    """One case, built on one device: phases that run in order, again and again.

    Attributes:
        phases: Names of the phases of a step, in order.
        host_phases: Phases that run on the host and are left out of counts.
        forward_phases: Phases of the forward pass: tensors that outlive them are activations.
        repeatable: Whether a step may be repeated on the same tensors without work of the host in
            between, as a captured graph does.
    """

    phases: tuple[str, ...]
    repeatable: bool = False
    forward_phases: tuple[str, ...] = ("forward",)
    host_phases: tuple[str, ...] = ("data",)

    @abstractmethod
    def run(self, phase: str) -> None:
        """Run one phase of the current step. Work on an accelerator may still be in progress."""

    @property
    def module(self) -> nn.Module | None:
        """Model to whose modules costs are attributed; None if there is none."""
        return None

    def tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """Return the tensors that live between steps, by state: parameters, optimizer, inputs."""
        return {}

    def outcome(self) -> dict[str, float]:
        """Return results of the last step for the record, such as its loss."""
        return {}

    def implementations(self) -> dict[str, str]:
        """Return the backends of each operator since the last call, where there is a choice."""
        return {}

    def notes(self) -> dict[str, Any]:
        """Return events for the record, such as operators that fell back."""
        return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionContext:
    """Device, inputs and rank that a program is built for.

    Attributes:
        device: Device of its tensors.
        store: Folder of prepared inputs.
        seed: Seed of every random choice.
        rank: Number of this process among those that work on the case together.
        ranks: Number of those processes.
    """

    device: torch.device
    store: Path
    seed: int = 0
    rank: int = 0
    ranks: int = 1


class Workload(ABC, Generic[C]):
    """A named family of cases.

    Attributes:
        name: Name in sweeps and on the command line.
        summary: Description in one line.
        configuration: Dataclass of a case; its leaves are the axes (`refsys.options`).
        defaults: Defaults of this workload, by axis, where they differ from the dataclass's.
        unused: Leaves of the dataclass that are not axes of this workload.
        data_parallel: Whether several ranks may work on a case, each on examples of its own.
        device_check: Part of a device check that it serves: ``single operator``, ``device rates``
            or ``training step``; empty if none.
        plan_goal: Goal that it is planned for: ``training`` or ``inference``; empty if none.
        selections: Cases that stand for it where all workloads are covered, by use. A case is
            a table of axes, and a list in it stands for each of its values. The uses are
            ``exact`` (traced with shapes alone, at any size), ``timing`` (a step takes 5 to 300 ms
            of one CPU core) and ``quick`` (measured in seconds on a CPU).
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    configuration: ClassVar[type[Any]]
    defaults: ClassVar[Mapping[str, Value]] = {}
    unused: ClassVar[frozenset[str]] = frozenset()
    data_parallel: ClassVar[bool] = False
    device_check: ClassVar[str] = ""
    plan_goal: ClassVar[str] = ""
    selections: ClassVar[Mapping[str, Sequence[Mapping[str, Any]]]] = {}

    @property
    def axes(self) -> tuple[Option, ...]:
        """Options that a case chooses, in the order of their declaration."""
        return tuple(
            replace(leaf, default=self.defaults.get(leaf.name, leaf.default))
            for leaf in options_of(self.configuration)
            if leaf.axis and leaf.name not in self.unused
        )

    def selection(self, use: str) -> Sequence[Mapping[str, Any]]:
        """Return its cases for a use; one case, all defaults, if none are declared."""
        return self.selections.get(use, ({},))

    def configure(self, values: Mapping[str, object]) -> C:
        """Return the configuration of a case, defaults filled in.

        Raises:
            WorkloadError: an axis is unknown, or a value does not fit.
        """
        names = [axis.name for axis in self.axes]
        for name in values:
            if name not in names:
                raise WorkloadError(
                    f"{self.name} has no axis {name!r}; its axes are {', '.join(names)}"
                )
        try:
            config: C = configured(self.configuration, values, self.defaults)
        except ArgumentError as error:
            raise WorkloadError(str(error)) from None
        return config

    def values(self, config: C) -> Axes:
        """Return the value of each axis of a case: what `configure` takes."""
        values = values_of(config)
        return {axis.name: values[axis.name] for axis in self.axes}

    @abstractmethod
    def static_costs(self, config: C) -> StaticCosts:
        """Return the exact costs of a case, without allocating it."""

    def parameters(self, config: C) -> Mapping[str, int]:
        """Return the number of parameters by component, as `static_costs` has it."""
        return self.static_costs(config).components

    def unsupported_reason(self, config: C, device: torch.device) -> str | None:
        """Return why a case cannot run on a device, as far as that is known without building it.

        Args:
            config: Every axis.
            device: The device of each of its ranks.
        """
        del config, device
        return None

    @abstractmethod
    def build(self, config: C, setting: ExecutionContext) -> Program:
        """Return the program of a case.

        Raises:
            UnsupportedError: this machine cannot run it.
            Exception: anything else is a fault of the workload.
        """

    @abstractmethod
    def build_abstract(self, config: C) -> Program:
        """Return the program for shapes alone; called, and run, under a fake tensor mode.

        It has the phases of the device; inputs are placeholders with the right shapes and dtypes.
        """

    def context_ranks(self, config: C) -> int:
        """Return the ranks that each example of a case is divided among."""
        del config
        return 1

    def examples(self, config: C) -> int:
        """Return the examples of a step of one rank, or of one group of context ranks."""
        del config
        return 1

    def exchange_chunks(self, config: C) -> int:
        """Return the parts in which context ranks exchange channels."""
        del config
        return 1

    def on_data_ranks(self, config: C, ranks: int) -> C:
        """Return the case of several ranks, or groups of context ranks, that average gradients.

        Each has a step's examples of its own. `build_abstract` of the result averages over them.

        Raises:
            WorkloadError: the workload averages no gradients.
        """
        del config, ranks
        raise WorkloadError(f"{self.name} averages no gradients; take ranks=1")

    def entries(self, config: C) -> frozenset[str]:
        """Return the names of the prepared entries that the case reads, prepared or not."""
        del config
        return frozenset()

    def inputs(self, config: C, store: Path) -> dict[str, str]:
        """Return the prepared inputs that the case reads: the name of the content, by kind.

        Raises:
            UnsupportedError: they are not prepared; the message says what to do.
        """
        del config, store
        return {}

    def title(self, config: C) -> str:
        """Return the title of a case in one line: the axes that distinguish it from others."""
        return " ".join([self.name, *self.chosen(config, {})])

    def labels(self, config: C) -> dict[str, Value]:
        """Return the labels that views of records group by.

        Returns:
            ``tokens``, the problem size; ``series``, what is measured, and ``variant``, how: lines
            of a figure; ``synthetic``, whether the inputs are.
        """
        unusual = self.chosen(config, {}, ("tokens",), titled=False)
        return {
            "tokens": self.values(config).get("tokens", 0),
            "series": self.name,
            "variant": ", ".join(unusual),
            "synthetic": False,
        }

    def chosen(
        self,
        config: C,
        usual: Mapping[str, Value],
        without: Iterable[str] = (),
        *,
        titled: bool = True,
    ) -> list[str]:
        """Return ``name=value`` of each axis that does not have its usual value.

        Args:
            config: Configuration of the case.
            usual: Usual values by axis, in place of the defaults.
            without: Axes that are left out.
            titled: Whether axes that every title has are named in any case.
        """
        values, left_out = self.values(config), set(without)
        return [
            f"{axis.name}={values[axis.name]}"
            for axis in self.axes
            if axis.name not in left_out
            and (
                (titled and axis.titled) or values[axis.name] != usual.get(axis.name, axis.default)
            )
        ]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Workloads by name, and the reasons for which others could not be loaded."""

    workloads: Mapping[str, Workload]
    broken: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Workload:
        """Return the workload of that name.

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
