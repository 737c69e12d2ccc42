"""Agreement of operator counts between the profiler and a dispatch mode.

Two profiled steps and a step under a dispatch mode are compared, for the operators that do a
model's work (`refsys.costs.operator_kinds.COMPUTE_KINDS`). All three run without the early stop of
checkpointing, where the profiler counts an operator whose computation is never reached. The host's
phases are excluded, because their operators depend on the example; so are calls inside operators of
other libraries, which a dispatch mode does not see.
"""

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import set_checkpoint_early_stop

from refsys.costs.operator_kinds import COMPUTE_KINDS, operator_kind
from workloads.workload import Program

_MOST_FLAGS = 5
_BUILT_IN_NAMESPACES = frozenset({"aten", "prims", "prim", "profiler", "c10d", "_c10d_functional"})


def count_agreement(program: Program) -> tuple[tuple[str, ...], dict[str, int]]:
    """Run three steps and compare their operator counts.

    Returns:
        A flag for each operator whose counts differ, and the profiler's counts.
    """
    first, second = (_step(program, _profiled) for _ in range(2))
    return _disagreements(_step(program, _dispatched), first, second), dict(sorted(second.items()))


def _step(program: Program, counted: Callable[[Callable[[], None]], Counter[str]]) -> Counter[str]:
    calls: Counter[str] = Counter()
    with set_checkpoint_early_stop(False):
        for phase in program.phases:
            if phase in program.host_phases:
                program.run(phase)
            else:
                calls += counted(lambda phase=phase: program.run(phase))  # type: ignore[misc]
    return Counter({name: n for name, n in calls.items() if operator_kind(name) in COMPUTE_KINDS})


@functools.cache
def _is_opaque(operator: str) -> bool:
    namespace, _, name = operator.partition(".")
    if namespace in _BUILT_IN_NAMESPACES or not name.isidentifier():
        return False
    return hasattr(getattr(torch.ops, namespace), name)


def _profiled(work: Callable[[], None]) -> Counter[str]:
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    # The public list of events builds a tree first, which takes forty times as long.
    results = profiler.profiler.kineto_results if profiler.profiler else None
    events = results.events() if results else []
    # Events of a thread nest: those that begin before an opaque one ends were called by it.
    calls: Counter[str] = Counter()
    inside_until: dict[int, int] = {}
    for event in sorted(events, key=lambda event: (event.start_ns(), -event.duration_ns())):
        name, thread = event.name().replace("::", "."), event.start_thread_id()
        if event.start_ns() < inside_until.get(thread, 0):
            continue
        calls[name] += 1
        if _is_opaque(name):
            inside_until[thread] = event.start_ns() + event.duration_ns()
    return calls


class _CallCounter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.calls[str(func.overloadpacket)] += 1
        return func(*args, **(kwargs or {}))


def _dispatched(work: Callable[[], None]) -> Counter[str]:
    with _CallCounter() as mode:
        work()
    return mode.calls


def _disagreements(*counts: Mapping[str, int]) -> tuple[str, ...]:
    messages = []
    for operator in sorted(set().union(*counts)):
        numbers = [table.get(operator, 0) for table in counts]
        if len(set(numbers)) > 1:
            messages.append(
                f"{operator}: {numbers[0]} dispatched, {numbers[1]} and {numbers[2]} profiled"
            )
    return tuple(messages[:_MOST_FLAGS])
