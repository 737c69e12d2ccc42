"""What a step dispatches and launches, counted in passes of their own."""

from collections import Counter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench.devices import Device
from bench.metrics import Value, Values, missing
from bench.probes.agreement import count_agreement
from bench.probes.categories import (
    by_kernel_kind,
    by_operator_kind,
)
from bench.probes.steps import run_step
from bench.simulation.trace import Origin, trace
from workloads.workload import Program

# What the two passes give, apart from parts.
COUNTED = (
    *("operator_calls", "tensor_bytes", "hardware_flops", "peak_tracked_bytes"),
    *("kernel_launches", "memory_copies"),
)
_TRACE = "dispatch mode over one step"
_PROFILE = "torch profiler over one step"
_TOP_MODULES = 2
_ACTIVATIONS = frozenset({"activations", "recomputed"})


def count_operators(program: Program) -> tuple[Values, dict[str, Any]]:
    """Traces a real step.

    Returns:
        ``operator_calls`` whole and by kind, ``tensor_bytes``, ``hardware_flops``,
        ``peak_tracked_bytes`` whole and by state, and a breakdown: calls by operator, and bytes at
        the peak by module. Calls of which two profiled steps and the trace say different things
        are flagged.
    """
    flags, profiled = count_agreement(program)
    found = trace(program)
    # What the host dispatches depends on the example.
    apart = frozenset(program.host_phases)
    costs = {origin: c for origin, c in found.costs.items() if origin.phase not in apart}
    calls: Counter[str] = Counter()
    for origin, cost in costs.items():
        calls[origin.operator] += cost.calls
    by_module: Counter[str] = Counter()
    activations: Counter[str] = Counter()
    for (state, module, _), nbytes in found.peak.by_origin.items():
        by_module[_short(module)] += nbytes
        if state in _ACTIVATIONS:
            activations[_short(module)] += nbytes

    def counted(value: int) -> Value:
        return Value(value, _TRACE, quality="counted")

    values = {
        "operator_calls": _positive(
            sum(calls.values()), "the dispatch mode saw no operator", flags
        ),
        "tensor_bytes": _positive(
            sum(cost.nbytes for cost in costs.values()), "the dispatch mode saw no operator"
        ),
        "hardware_flops": _positive(
            sum(cost.flops for cost in costs.values()), "a step has no matrix product"
        ),
        "peak_tracked_bytes": counted(found.peak.nbytes),
    }
    for kind, count in by_operator_kind(calls).items():
        values[f"operator_calls.{kind}"] = counted(count)
    for state, nbytes in found.peak.by_state.items():
        values[f"peak_tracked_bytes.{state}"] = counted(nbytes)
    return values, {
        "calls_by_operator": dict(sorted(calls.items())),
        "flops_by_phase": _by_phase(costs),
        "peak_bytes_by_module": dict(sorted(by_module.items())),
        "activation_bytes_by_module": dict(sorted(activations.items())),
        "profiled_calls_by_operator": profiled,
    }


def count_kernels(program: Program, device: Device) -> tuple[Values, dict[str, Any]]:
    """Profiles two steps on the device; a count that they do not share is flagged."""
    if device.torch_device.type != "cuda":
        why = missing("no accelerator: operators run on the host; see operator_calls")
        return {"kernel_launches": why, "memory_copies": why}, {}
    first, second = (_profile(program, device) for _ in range(2))
    copies, again = (_copies(kernels) for kernels in (first, second))
    flags = () if first == second else ("two profiled steps disagree",)
    values = {
        "kernel_launches": _positive(
            sum(second.values()) - again, "the profiler lost its kernels", flags, _PROFILE
        ),
        "memory_copies": Value(copies, _PROFILE, quality="counted", flags=flags),
    }
    for kind, count in by_kernel_kind(second).items():
        values[f"kernel_launches.{kind}"] = Value(count, _PROFILE, quality="counted", flags=flags)
    return values, {"kernels": dict(second.most_common())}


def _profile(program: Program, device: Device) -> Counter[str]:
    device.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run_step(program)
        device.synchronize()
    kernels: Counter[str] = Counter()
    for event in profiler.events() or []:
        if event.device_type == torch.autograd.DeviceType.CUDA:
            kernels[event.name] += 1
    return kernels


def _copies(kernels: Counter[str]) -> int:
    return sum(n for name, n in kernels.items() if name.startswith(("Memcpy", "Memset")))


def _positive(
    count: int, otherwise: str, flags: tuple[str, ...] = (), method: str = _TRACE
) -> Value:
    """A count; zero means that counting failed, and is never reported."""
    if count <= 0:
        return missing(otherwise)
    return Value(count, method, quality="counted", flags=flags)


def _by_phase(costs: dict[Origin, Any]) -> dict[str, int]:
    flops: Counter[str] = Counter()
    for origin, cost in costs.items():
        flops[origin.phase] += cost.flops
    return dict(flops)


def _short(module: str) -> str:
    """The first parts of a module path: ``msa.blocks.*.transition`` is ``msa.transition``."""
    parts = [part for part in module.split(".") if part not in {"blocks", "*"}]
    return ".".join(parts[:_TOP_MODULES])
