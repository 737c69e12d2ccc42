"""Trace of a program's step: every operator by phase, module path and name."""

import functools
import gc
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._guards import active_fake_mode
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from refsys.costs.collectives import (
    CollectiveKey,
    Communication,
    collective_call,
    sent_bytes,
)
from refsys.costs.exponentials import operator_exponentials
from refsys.costs.flops import operator_flops
from refsys.costs.module_paths import ModulePaths
from refsys.costs.operator_properties import Properties, properties
from refsys.costs.output_cache import DEVICE, OUTPUTS
from refsys.costs.program import Program
from refsys.costs.project_operators import ProjectOperators, Reports
from refsys.costs.repeated_blocks import RepeatedBlocks
from refsys.costs.storages import LiveStorages, Peak
from refsys.ops.rounds import shortened, times
from refsys.ops.triton_backend import Launch, watch_launches
from refsys.ops.workspace import Scratch, watch
from refsys.parallel.ledger import Ledger


class Origin(NamedTuple):
    """Origin of a cost.

    Attributes:
        phase: Phase of the step; ``recompute`` for recomputed operators.
        module: Path of the module.
        operator: Operator.
        dtype: Floating-point dtype of its first input of one, such as ``bfloat16``; empty if it has
            none.
    """

    phase: str
    module: str
    operator: str
    dtype: str = ""


@dataclass(slots=True)
class Cost:
    """Costs of the operators of one origin together.

    Attributes:
        calls: Number of calls, views not counted.
        launches: Kernels that a device would start for them: each that an operator of the project
            starts or would start; one for any other call, none where memory is only allocated.
        flops: Floating-point operations of matrix products and convolutions.
        nbytes: Bytes of their inputs and outputs.
        exponentials: Exponentials of softmax logits, sigmoids and the like.
    """

    calls: int = 0
    launches: int = 0
    flops: int = 0
    nbytes: int = 0
    exponentials: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """Costs of a step.

    Attributes:
        costs: By origin.
        peak: Most bytes alive at once.
        phase_peaks: The same within each phase.
        unpriced: Operators of unknown cost: no FLOP formula, though they are of other libraries or
            multiply matrices, or a collective of unknown kind.
        communication: Collective calls, bytes and messages of this rank.
        kernels: Launches by phase and kernel of the project's operators.
        host_bytes: Most bytes of checkpoints in host memory at once; in no peak.
        left_out: Blocks of differentiated stacks that were counted and not traced.
    """

    costs: dict[Origin, Cost]
    peak: Peak
    phase_peaks: dict[str, Peak]
    unpriced: tuple[str, ...] = field(default=())
    communication: dict[CollectiveKey, Communication] = field(default_factory=dict)
    kernels: dict[tuple[str, str], int] = field(default_factory=dict)
    host_bytes: int = 0
    left_out: int = field(default=0, compare=False)

    def total(self, quantity: str) -> int:
        """Return the sum of an attribute of `Cost` over all origins."""
        return sum(getattr(cost, quantity) for cost in self.costs.values())


def trace(program: Program, *, shorten: bool = False) -> Trace:
    """Run one step of `program` and record every operator.

    Under a fake tensor mode nothing is computed and memory is predicted; on real tensors the same
    is measured, much slowed down. The program's state (parameters, optimizer) must exist already.

    Args:
        program: Program to run.
        shorten: Count equal rounds and blocks without running them; under fake tensors only.

    Raises:
        UnequalBlocksError: `shorten` is set, and blocks that the model calls equal are not.
    """
    module, forward_phases = program.module or nn.Module(), program.forward_phases
    if active_fake_mode():
        tracer = _Tracer(module, forward_phases)
    else:
        tracer = _TracerOfRealTensors(module, forward_phases)
        gc.collect()
    Ledger.take_latest()
    with (
        uncollected(),
        watch(tracer.on_scratch),
        watch_launches(tracer.on_launch),
        tracer.paths,
        tracer,
    ):
        tracer.hold(program.tensors())
        parameters = list(program.tensors().get("parameters", []))
        for phase in program.phases:
            tracer.enter_phase(phase)
            with shortened(tracer.blocks) if shorten else nullcontext():
                program.run(phase)
            tracer.leave_phase(parameters)
        tracer.name(program.tensors())
    return tracer.result(program.phases)


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect no garbage inside the block, so that releases do not depend on when it runs."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    """Return the tensors among values and in lists and tuples among them, in order."""
    tensors: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, (list, tuple)):
            tensors += _tensors(value)
    return tensors


@functools.cache
def _dtype_name(dtype: torch.dtype | None) -> str:
    return "" if dtype is None else str(dtype).removeprefix("torch.")


class _Tracer(TorchDispatchMode):
    """The dispatch mode behind `trace`."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # By default torch wraps the mode, which takes a third of the time of a trace. Nothing is
        # compiled where tensors are fake.
        return False

    def __init__(self, root: nn.Module, forward_phases: tuple[str, ...]) -> None:
        super().__init__()
        self._forward_phases = forward_phases
        self.paths = ModulePaths(root)
        self.memory = LiveStorages()
        self.blocks = RepeatedBlocks(self.memory)
        self.memory.before_event = self.blocks.locate
        self._costs: defaultdict[Origin, Cost] = defaultdict(Cost)
        self._communication: defaultdict[CollectiveKey, Communication] = defaultdict(Communication)
        self._kernels: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._unpriced: set[str] = set()
        self._phase = ""
        self._operators = ProjectOperators()
        self._scratch: list[tuple[int, Scratch]] | None = None
        self._launched: list[str] = []
        self._module = ""

    def hold(self, states: Mapping[str, Iterable[Tensor]]) -> None:
        """Record tensors that are alive from the start, without references to them."""
        for state, tensors in states.items():
            for tensor in tensors:
                self.memory.add(tensor, state)

    def name(self, states: Mapping[str, Iterable[Tensor]]) -> None:
        """Set the states of tensors that came into being during the step."""
        for state, tensors in states.items():
            self.memory.assign(tensors, state)

    def enter_phase(self, phase: str) -> None:
        """Begin a phase."""
        self._phase = phase
        self.memory.enter_phase(phase)

    def leave_phase(self, parameters: Iterable[Tensor]) -> None:
        """Set the states of a phase's tensors: activations that forward leaves, and gradients."""
        self.blocks.add_gradients()
        self.memory.reassign_alive("forward", "activations")
        self.memory.rename("forward", "temporaries")
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self.memory.assign(gradients, "gradients")

    def on_scratch(self, scratch: Scratch) -> None:
        """Record scratch inside an opaque operator; elsewhere the allocation itself is seen."""
        if self._scratch is not None:
            number = self.memory.begin_scratch(scratch.nbytes, scratch.name, self._module)
            self._scratch.append((number, scratch))

    def on_launch(self, launch: Launch) -> None:
        """Note a kernel that an operator starts; torch's own are counted by operator."""
        self._launched.append(launch.kernel)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is DEVICE and isinstance(args[0], FakeTensor):
            return args[0].fake_device
        kwargs = kwargs or {}
        operator = properties(func)
        if operator.ignored or self.blocks.allocating:
            return OUTPUTS.call(func, args, kwargs)
        self.blocks.locate()
        module, recomputed = self.paths.current()
        if module != self._module:
            self.memory.check_sizes()
        self._module = module
        self._launched.clear()
        if operator.built_in:
            out = OUTPUTS.call(func, args, kwargs)
        else:
            out = self._call_opaque(operator, func, args, kwargs)
        outputs = _tensors((out,))
        state = operator.state or ("recomputed" if recomputed else self._state())
        if func.is_view:
            # All share one storage.
            for tensor in outputs[:1]:
                self.memory.add(tensor, state, module, operator.name)
            return out
        for tensor in outputs:
            self.memory.add(tensor, state, module, operator.name)
        inputs = _tensors((*args, *kwargs.values()))
        phase = "recompute" if recomputed else self._phase
        repeated = times() * self.blocks.times()
        dtype = next((t.dtype for t in inputs if t.is_floating_point()), None)
        origin = Origin(phase, module, operator.name, _dtype_name(dtype))
        cost = self._costs[origin]
        cost.nbytes += repeated * sum(t.numel() * t.element_size() for t in (*inputs, *outputs))
        self._count(cost, origin, operator, repeated, func, args, kwargs, out)
        if operator.collective:
            self._communicate(origin, repeated, func, args)
        return out

    def _call_opaque(
        self, operator: Properties, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call an operator that may allocate scratch memory and start kernels of its own."""
        with self._opaque():
            if operator.project:
                return self._operators.call(func, args, kwargs, self._reported, self._repeat)
            return OUTPUTS.call(func, args, kwargs)

    @contextmanager
    def _opaque(self) -> Iterator[None]:
        outer, self._scratch = self._scratch, []
        try:
            yield
        finally:
            for number, _ in reversed(self._scratch):
                self.memory.end_scratch(number)
            self._scratch = outer

    def _reported(self) -> Reports:
        scratch = tuple(scratch for _, scratch in self._scratch or ())
        return Reports(tuple(self._launched), scratch)

    def _repeat(self, reports: Reports) -> None:
        self._launched.extend(reports.kernels)
        for scratch in reports.scratch:
            self.on_scratch(scratch)

    def _state(self) -> str:
        return "forward" if self._phase in self._forward_phases else "temporaries"

    def _count(
        self,
        cost: Cost,
        origin: Origin,
        operator: Properties,
        repeated: int,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: Any,
    ) -> None:
        cost.calls += repeated
        if operator.built_in:
            cost.launches += repeated * operator.launches
        else:
            cost.launches += repeated * len(self._launched)
            for kernel in self._launched:
                self._kernels[origin.phase, kernel] += repeated
        cost.exponentials += repeated * operator_exponentials(func, args, out)
        flops = operator_flops(func, args, kwargs, out)
        if flops is not None:
            cost.flops += repeated * flops
        elif operator.multiplies or not operator.built_in:
            self._unpriced.add(operator.name)

    def _communicate(self, origin: Origin, repeated: int, func: Any, args: tuple[Any, ...]) -> None:
        call = collective_call(func, args)
        counted = Ledger.take_latest()
        if call is None:
            self._unpriced.add(origin.operator)
            return
        kind, ranks, payload = call
        sent = sent_bytes(kind, payload, ranks)
        operator, direction, messages = "", "", 0
        if counted is not None:
            operator, direction, messages = counted.operator, counted.direction, counted.messages
            if kind == "all_to_all":
                # Stages of an exchange have kinds of their own, and own parts are not sent.
                kind, payload, sent = counted.kind, counted.nbytes, counted.nbytes
        total = self._communication[CollectiveKey(origin.phase, kind, ranks, operator, direction)]
        total.calls += repeated
        total.messages += repeated * messages
        total.payload_bytes += repeated * payload
        total.sent_bytes += repeated * sent

    def result(self, phases: tuple[str, ...]) -> Trace:
        """Return the trace of a step whose phases are done."""
        timeline = self.blocks.complete(self.memory.timeline())
        return Trace(
            dict(self._costs),
            timeline.peak(),
            {phase: timeline.peak(phase) for phase in phases},
            tuple(sorted(self._unpriced)),
            dict(self._communication),
            dict(self._kernels),
            timeline.host_bytes(),
            self.blocks.left_out,
        )


class _TracerOfRealTensors(_Tracer):
    """Tracer of a step whose operators may be compiled while it runs."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return super().__torch_dispatch__(func, types, args, kwargs)
