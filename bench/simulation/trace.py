"""Tracing a program's step: every operator, by phase, module path and name."""

import gc
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.probes.categories import operator_kind
from bench.simulation.module_paths import ModulePaths
from bench.simulation.storages import LiveStorages, Peak
from refsys.ops.rounds import times
from refsys.ops.triton_backend import Launch, watch_launches
from refsys.ops.workspace import Scratch, watch
from workloads.flops import flop_registry
from workloads.workload import Program

# Bookkeeping of torch itself, which moves no data: `prim.device` is a fake tensor asking itself.
_IGNORED_NAMESPACES = frozenset({"prim", "profiler"})
# Of these, only what multiplies matrices must have a FLOP formula.
_BUILT_IN_NAMESPACES = frozenset({"aten", "prims", "c10d", "_c10d_functional"})
# No views in name, but they start nothing on a device.
_NO_KERNEL = frozenset(
    "empty empty_like empty_strided new_empty new_empty_strided _unsafe_view lift_fresh".split()
)
_MULTIPLYING = frozenset({"linear", "batched_matmul", "attention"})


class Origin(NamedTuple):
    """Where a cost arises."""

    phase: str
    module: str
    operator: str


@dataclass(slots=True)
class Cost:
    """What the operators of one origin cost together.

    Attributes:
        calls: How many there were, views not counted.
        launches: Kernels that a device would start for them: each that an operator of our own
            starts or would start; one for any other call, none where memory is only allocated.
        flops: Floating-point operations of matrix products and convolutions.
        nbytes: Bytes of their inputs and outputs.
    """

    calls: int = 0
    launches: int = 0
    flops: int = 0
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """What a step costs.

    Attributes:
        costs: By origin.
        peak: Most bytes alive at once.
        phase_peaks: The same within each phase.
        unpriced: Operators without a FLOP formula, of other libraries or that multiply matrices:
            their FLOPs are unknown.
    """

    costs: dict[Origin, Cost]
    peak: Peak
    phase_peaks: dict[str, Peak]
    unpriced: tuple[str, ...] = field(default=())

    def total(self, quantity: str) -> int:
        """The sum of `calls`, `launches`, `flops` or `nbytes` over all origins."""
        return sum(getattr(cost, quantity) for cost in self.costs.values())


def trace(program: Program) -> Trace:
    """Runs one step of `program` and notes every operator.

    Under a fake tensor mode nothing is computed and memory is predicted; on real tensors the same
    is measured, much slowed down. The program's state (parameters, optimizer) must exist already.
    """
    tracer = _Tracer(program.module or nn.Module(), program.forward_phases)
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        with watch(tracer.on_scratch), watch_launches(tracer.on_launch), tracer.paths, tracer:
            tracer.hold(program.tensors())
            parameters = list(program.tensors().get("parameters", []))
            for phase in program.phases:
                tracer.enter_phase(phase)
                program.run(phase)
                tracer.leave_phase(parameters)
            tracer.name(program.tensors())
    finally:
        if collecting:
            gc.enable()
    return tracer.result(program.phases)


class _Tracer(TorchDispatchMode):
    """The dispatch mode behind `trace`."""

    def __init__(self, root: nn.Module, forward_phases: tuple[str, ...]) -> None:
        super().__init__()
        self._forward_phases = forward_phases
        self.paths = ModulePaths(root)
        self.memory = LiveStorages()
        self._costs: defaultdict[Origin, Cost] = defaultdict(Cost)
        self._unpriced: set[str] = set()
        self._phase = ""
        self._scratch: list[int] | None = None
        self._launched = 0
        self._module = ""

    def hold(self, states: Mapping[str, Iterable[Tensor]]) -> None:
        """Notes tensors that are alive from the start, and keeps none of them alive."""
        for state, tensors in states.items():
            for tensor in tensors:
                self.memory.add(tensor, state)

    def name(self, states: Mapping[str, Iterable[Tensor]]) -> None:
        """Says what tensors are that came into being on the way."""
        for state, tensors in states.items():
            self.memory.assign(tensors, state)

    def enter_phase(self, phase: str) -> None:
        self._phase = phase
        self.memory.enter_phase(phase)

    def leave_phase(self, parameters: Iterable[Tensor]) -> None:
        """What a forward phase leaves is activations; what hangs on a parameter is a gradient."""
        self.memory.reassign_alive("forward", "activations")
        self.memory.rename("forward", "temporaries")
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self.memory.assign(gradients, "gradients")

    def on_scratch(self, scratch: Scratch) -> None:
        """Scratch inside an opaque operator; elsewhere the allocation itself is seen."""
        if self._scratch is not None:
            self._scratch.append(
                self.memory.begin_scratch(scratch.nbytes, scratch.name, self._module)
            )

    def on_launch(self, launch: Launch) -> None:
        """A kernel that an operator starts; torch's own are counted by operator."""
        del launch
        self._launched += 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace in _IGNORED_NAMESPACES:
            return func(*args, **kwargs)
        self._module, recomputed = self.paths.current()
        self._launched = 0
        with self._opaque():
            out = func(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        name = str(func)
        state = "recomputed" if recomputed else self._state()
        for tensor in outputs:
            self.memory.add(tensor, state, self._module, name)
        if not func.is_view:
            inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            phase = "recompute" if recomputed else self._phase
            self._count(Origin(phase, self._module, name), func, args, kwargs, out, inputs, outputs)
        return out

    @contextmanager
    def _opaque(self) -> Iterator[None]:
        outer, self._scratch = self._scratch, []
        try:
            yield
        finally:
            for number in reversed(self._scratch):
                self.memory.end_scratch(number)
            self._scratch = outer

    def _state(self) -> str:
        return "forward" if self._phase in self._forward_phases else "temporaries"

    def _count(
        self,
        origin: Origin,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: Any,
        inputs: list[Tensor],
        outputs: list[Tensor],
    ) -> None:
        cost, repeated = self._costs[origin], times()
        cost.calls += repeated
        if func.namespace not in _BUILT_IN_NAMESPACES:
            cost.launches += repeated * self._launched
        elif func.overloadpacket.__name__ not in _NO_KERNEL:
            cost.launches += repeated
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            cost.flops += repeated * int(formula(*args, **kwargs, out_val=out))
        elif (
            func.namespace not in _BUILT_IN_NAMESPACES
            or operator_kind(origin.operator) in _MULTIPLYING
        ):
            self._unpriced.add(origin.operator)
        nbytes = sum(t.numel() * t.element_size() for t in (*inputs, *outputs))
        cost.nbytes += repeated * nbytes

    def result(self, phases: tuple[str, ...]) -> Trace:
        return Trace(
            dict(self._costs),
            self.memory.peak(),
            {phase: self.memory.peak(phase) for phase in phases},
            tuple(sorted(self._unpriced)),
        )
