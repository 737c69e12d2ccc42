"""Counts of operators that a step dispatches and kernels that it launches, in separate passes."""

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

from bench.devices import Device
from bench.probes.agreement import count_agreement
from bench.probes.device_events import profile_work
from bench.probes.kernel_kinds import by_kernel_kind
from bench.probes.steps import run_step
from bench.records.metrics import Value, Values, missing
from refsys.costs.operator_kinds import by_operator_kind
from refsys.costs.trace import Origin, Trace, trace
from workloads.workload import Program

# Metrics of the profiled steps, without parts.
LAUNCHED = ("kernel_launches", "memory_copies", "host_launches", "graph_launches")
# Metrics of both passes.
COUNTED = (
    *("operator_calls", "tensor_bytes", "hardware_flops", "peak_tracked_bytes"),
    *LAUNCHED,
)
_TRACE = "dispatch mode over one step"
_PROFILE = "torch profiler over one step"
_TOP_MODULES = 2
_ACTIVATIONS = frozenset({"activations", "recomputed"})


def count_operators(program: Program) -> tuple[Values, dict[str, Any]]:
    """Trace a real step.

    Returns:
        ``operator_calls`` in total and by kind, ``tensor_bytes``, ``hardware_flops``,
        ``peak_tracked_bytes`` in total and by state, and a breakdown: calls by operator, and bytes
        at the peak by module. Calls are flagged if two profiled steps and the trace disagree.
    """
    flags, profiled = count_agreement(program)
    # The operators of the host's phases depend on the example.
    values, breakdown = values_of_trace(trace(program), _TRACE, frozenset(program.host_phases))
    values["operator_calls"] = replace(values["operator_calls"], flags=flags)
    return values, breakdown | {"profiled_calls_by_operator": profiled}


def values_of_trace(
    traced: Trace, method: str, host_phases: frozenset[str] = frozenset()
) -> tuple[Values, dict[str, Any]]:
    """Return the counts of a trace.

    Args:
        traced: Trace of a step, of real tensors or of shapes alone.
        method: Method of the counts.
        host_phases: Phases whose operators are not counted.

    Returns:
        ``operator_calls`` in total and by kind, ``tensor_bytes``, ``hardware_flops``,
        ``peak_tracked_bytes`` in total and by state, and a breakdown: calls by operator, FLOPs by
        phase, bytes at the peak by module.
    """
    costs = {origin: c for origin, c in traced.costs.items() if origin.phase not in host_phases}
    calls: Counter[str] = Counter()
    for origin, cost in costs.items():
        calls[origin.operator] += cost.calls
    by_module: Counter[str] = Counter()
    activations: Counter[str] = Counter()
    for (state, module, _), nbytes in traced.peak.by_origin.items():
        by_module[_short(module)] += nbytes
        if state in _ACTIVATIONS:
            activations[_short(module)] += nbytes

    def counted(value: int) -> Value:
        return Value(value, method, quality="counted")

    values = {
        "operator_calls": _positive(
            sum(calls.values()), "the dispatch mode saw no operator", method=method
        ),
        "tensor_bytes": _positive(
            sum(cost.nbytes for cost in costs.values()),
            "the dispatch mode saw no operator",
            method=method,
        ),
        "hardware_flops": _positive(
            sum(cost.flops for cost in costs.values()),
            "a step has no matrix product",
            method=method,
        ),
        "peak_tracked_bytes": counted(traced.peak.nbytes),
    }
    for kind, count in by_operator_kind(calls).items():
        values[f"operator_calls.{kind}"] = counted(count)
    for state, nbytes in traced.peak.by_state.items():
        values[f"peak_tracked_bytes.{state}"] = counted(nbytes)
    return values, {
        "calls_by_operator": dict(sorted(calls.items())),
        "flops_by_phase": _by_phase(costs),
        "peak_bytes_by_module": dict(sorted(by_module.items())),
        "activation_bytes_by_module": dict(sorted(activations.items())),
    }


def count_kernels(program: Program, device: Device) -> tuple[Values, dict[str, Any]]:
    """Profile two steps on the device and count their kernels, copies and launches.

    A count is flagged if the two steps disagree, or if launched kernels are missing from the
    profile.

    Returns:
        ``kernel_launches`` in total and by kind, ``memory_copies``, ``host_launches``,
        ``graph_launches``, and a breakdown: kernels by name.
    """
    if device.torch_device.type != "cuda":
        why = missing("no accelerator: operators run on the host; see operator_calls")
        return dict.fromkeys(LAUNCHED, why), {}
    step = partial(run_step, program)
    first, second = (profile_work(step, device) for _ in range(2))
    flags = () if first.kernels == second.kernels else ("two profiled steps disagree",)
    if lost := second.launches_without_kernel:
        flags = (*flags, f"{lost} launches have no kernel in the profile")

    def counted(value: int) -> Value:
        return Value(value, _PROFILE, quality="counted", flags=flags)

    values = {
        "kernel_launches": _positive(
            second.kernels.total() - second.copies, "the profiler lost its kernels", flags, _PROFILE
        ),
        "memory_copies": counted(second.copies),
        "host_launches": _launches(first.host_launches, second.host_launches),
        "graph_launches": _launches(first.graph_launches, second.graph_launches),
    }
    for kind, count in by_kernel_kind(second.kernels).items():
        values[f"kernel_launches.{kind}"] = counted(count)
    return values, {"kernels": dict(second.kernels.most_common())}


def _launches(first: int | None, second: int | None) -> Value:
    """Return a count of the host's calls, which may be 0."""
    if second is None:
        return missing("the profiler lists no calls of the host to the device")
    flags = () if first == second else ("two profiled steps disagree",)
    return Value(second, _PROFILE, quality="counted", flags=flags)


def _positive(
    count: int, otherwise: str, flags: tuple[str, ...] = (), method: str = _TRACE
) -> Value:
    """Return a count, or the reason for none: a count of 0 means that counting failed."""
    if count <= 0:
        return missing(otherwise)
    return Value(count, method, quality="counted", flags=flags)


def _by_phase(costs: dict[Origin, Any]) -> dict[str, int]:
    flops: Counter[str] = Counter()
    for origin, cost in costs.items():
        flops[origin.phase] += cost.flops
    return dict(flops)


def _short(module: str) -> str:
    """Return the first parts of a path: ``msa.blocks.*.transition`` becomes ``msa.transition``."""
    parts = [part for part in module.split(".") if part not in {"blocks", "*"}]
    return ".".join(parts[:_TOP_MODULES])
