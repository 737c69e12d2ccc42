"""Metrics that a record may hold: unit, direction and meaning.

Views, gates and `doctor` read this table. A part of a metric has its own name, ``<metric>.<part>``,
and its whole's unit and direction, as in ``phase_time_s.forward``.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from statistics import median
from typing import Any, Literal

from bench.records.record import Better, Quality, Scope

# Reduction of a metric over ranks. A device's energy is summed over devices: ranks that share one
# count it once.
Over = Literal["largest", "sum", "mean", "device sum"]


@dataclass(frozen=True, slots=True)
class MetricKind:
    """Definition of a metric.

    Attributes:
        unit: Unit, also the suffix of a name that has one.
        better: Direction of an improvement.
        scope: Owner of the quantity.
        meaning: Description in one line.
        over_ranks: Reduction over ranks.
    """

    unit: str
    better: Better
    scope: Scope
    meaning: str
    over_ranks: Over = "largest"


METRICS: dict[str, MetricKind] = {
    "step_time_s": MetricKind("s", "lower", "program", "wall time of a step, all phases"),
    "phase_time_s": MetricKind("s", "lower", "program", "wall time of one phase of a step"),
    "first_step_time_s": MetricKind(
        "s", "lower", "program", "wall time of the first step, compilation and set-up included"
    ),
    "device_time_s": MetricKind(
        "s", "lower", "device", "time of a step's kernels replayed as a graph, without the host"
    ),
    "host_time_s": MetricKind(
        "s", "lower", "process", "time until the host has started a step on an idle device"
    ),
    "error_ratio": MetricKind(
        "1",
        "lower",
        "program",
        "largest error against float64, over plain PyTorch's in the same dtype and one rounding",
    ),
    "differing_numbers": MetricKind(
        "1", "lower", "program", "numbers of two runs on the same inputs that differ in a bit"
    ),
    "achieved_flops": MetricKind(
        "FLOP/s", "higher", "program", "model FLOPs of a step over its time", "sum"
    ),
    "cpu_busy_pct": MetricKind(
        "%", "neither", "process", "CPU time over wall time and cores, during timed steps", "sum"
    ),
    "foreign_busy_pct": MetricKind(
        "%", "lower", "device", "CPU time of everyone else over wall time and cores, meanwhile"
    ),
    "device_busy_pct": MetricKind(
        "%",
        "neither",
        "device",
        "share of time in which at least one kernel ran; not efficiency",
        "mean",
    ),
    "unit_activity_pct": MetricKind(
        "%",
        "neither",
        "device",
        "share of time in which a unit of the chip (sm, tensor, dram) was active, during steps",
        "mean",
    ),
    "model_flop_utilization": MetricKind(
        "1",
        "higher",
        "device",
        "model FLOPs over time and peak rate, recomputation not counted",
        "mean",
    ),
    "hardware_flop_utilization": MetricKind(
        "1", "higher", "device", "the same of all FLOPs executed, recomputation included", "mean"
    ),
    "roofline_bound_s": MetricKind(
        "s",
        "neither",
        "device",
        "least time a step could take: products, bytes, exponentials or instructions at peak",
    ),
    "ratio_to_roofline": MetricKind("1", "lower", "device", "step time over roofline_bound_s"),
    "achieved_bound_s": MetricKind(
        "s",
        "neither",
        "device",
        "the same as roofline_bound_s by the rates that check-device measured on this device",
    ),
    "ratio_to_achieved_bound": MetricKind(
        "1", "lower", "device", "step time over achieved_bound_s; below 1 it beats the calibration"
    ),
    "peak_resident_bytes": MetricKind(
        "B", "lower", "process", "high-water mark of resident memory in a steady step, above start"
    ),
    "first_step_peak_resident_bytes": MetricKind(
        "B", "lower", "process", "the same in the first step"
    ),
    "baseline_resident_bytes": MetricKind(
        "B",
        "neither",
        "process",
        "resident memory of a process beside that: interpreter, libraries",
    ),
    "peak_allocated_bytes": MetricKind(
        "B", "lower", "device", "most bytes that the allocator had given out in steady steps"
    ),
    "first_step_peak_allocated_bytes": MetricKind("B", "lower", "device", "the same in step one"),
    "peak_reserved_bytes": MetricKind(
        "B", "lower", "device", "most bytes that the allocator had taken from the device"
    ),
    "device_used_bytes": MetricKind(
        "B", "lower", "device", "device memory in use after timed steps, as the driver sees it"
    ),
    "peak_tracked_bytes": MetricKind(
        "B", "lower", "program", "most bytes of tensors alive at once, followed storage by storage"
    ),
    "predicted_peak_bytes": MetricKind(
        "B", "lower", "program", "the same of a step traced with shapes alone, its state in place"
    ),
    "predicted_phase_peak_bytes": MetricKind(
        "B", "lower", "program", "the same within one phase of the step"
    ),
    "predicted_step_time_s": MetricKind(
        "s", "lower", "program", "time of a step by the time model, from its traced costs"
    ),
    "predicted_phase_time_s": MetricKind(
        "s", "lower", "program", "time of one phase of a step by the time model"
    ),
    "predicted_energy_per_step_j": MetricKind(
        "J", "lower", "device", "energy of a step on one device by the time model", "device sum"
    ),
    "energy_per_step_j": MetricKind("J", "lower", "device", "gross energy of a step", "device sum"),
    "mean_power_w": MetricKind(
        "W", "neither", "device", "energy over time, during counted steps", "device sum"
    ),
    "idle_power_w": MetricKind(
        "W",
        "neither",
        "device",
        "power of the device without work, its context alive, before and after the steps",
        "device sum",
    ),
    "energy_above_idle_per_step_j": MetricKind(
        "J",
        "lower",
        "device",
        "energy of a step less what the idle device takes in the same time",
        "device sum",
    ),
    "operator_calls": MetricKind(
        "1",
        "lower",
        "program",
        "operators that a step dispatches, views and the host's phases not counted",
    ),
    "tensor_bytes": MetricKind(
        "B",
        "lower",
        "program",
        "bytes of inputs and outputs of the operators counted in operator_calls",
    ),
    "hardware_flops": MetricKind(
        "FLOP",
        "lower",
        "program",
        "floating-point operations of a step, recomputation included",
        "sum",
    ),
    "exponentials": MetricKind(
        "1", "lower", "program", "exponentials of softmax logits, sigmoids and the like in a step"
    ),
    "kernel_launches": MetricKind("1", "lower", "device", "kernels that a step ran on the device"),
    "memory_copies": MetricKind("1", "lower", "device", "copies and fills that a step ran there"),
    "host_launches": MetricKind(
        "1", "lower", "process", "calls of the host in a step that start one kernel each"
    ),
    "graph_launches": MetricKind(
        "1", "neither", "process", "calls of the host in a step that start a graph of kernels"
    ),
    "collective_calls": MetricKind(
        "1", "lower", "program", "collective operations that a rank takes part in, in a step"
    ),
    "collective_bytes": MetricKind(
        "B", "lower", "program", "bytes that a rank hands to collective operations in a step"
    ),
    "collective_messages": MetricKind(
        "1", "lower", "program", "other ranks that a rank sends a part to, over a step's exchanges"
    ),
    "collective_wait_s": MetricKind(
        "s", "lower", "program", "time in a step that the host waits for collective operations"
    ),
    "longest_tokens": MetricKind(
        "tokens", "higher", "program", "longest sequence whose step runs within the memory"
    ),
    "predicted_longest_tokens": MetricKind(
        "tokens", "higher", "program", "the same by the traced peak of a step"
    ),
}


# Metrics of ``foldperf simulate`` alone, which measured records lack.
OF_SIMULATIONS = frozenset(
    {
        "collective_messages",
        "exponentials",
        "predicted_energy_per_step_j",
        "predicted_phase_peak_bytes",
        "predicted_phase_time_s",
        "predicted_step_time_s",
    }
)
# Metrics of ``foldperf check-device`` alone, which records of sweeps lack.
OF_DEVICE_CHECKS = frozenset({"error_ratio", "differing_numbers"})
# Metrics of ``foldperf frontier`` alone.
OF_FRONTIERS = frozenset({"longest_tokens", "predicted_longest_tokens"})


@dataclass(frozen=True, slots=True)
class Value:
    """Measured metric, or the reason for having none.

    Attributes:
        value: Figure; None if it could not be had.
        method: Method of measurement in a few words.
        reason: Why there is no figure.
        n: Number of samples.
        ci: Interval of the figure (low, high, coverage), where the samples allow one.
        samples: Samples in order.
        quality: measured, counted (exact, no noise), degraded or missing.
        flags: Remarks for a reader.
        ranks: Figure of each rank, where there are several; `value` is their reduction.
    """

    value: float | int | None
    method: str
    reason: str | None = None
    n: int = 1
    ci: tuple[float, float, float] | None = None
    samples: tuple[float, ...] = ()
    quality: Quality = "measured"
    flags: tuple[str, ...] = ()
    ranks: tuple[float | int | None, ...] = ()


Values = dict[str, Value]

# Fields of a metric in a record.
METRIC_FIELDS = {"unit", "better", "scope"} | {field.name for field in fields(Value)}


def missing(reason: str, method: str = "none") -> Value:
    """Return a metric without a figure, with the reason."""
    return Value(None, method, reason=reason, n=0, quality="missing")


def flagged(values: Values, flag: str) -> Values:
    """Return metrics with one more flag, unless the flag is empty."""
    if not flag:
        return values
    return {name: replace(value, flags=(*value.flags, flag)) for name, value in values.items()}


def from_samples(samples: Sequence[float], method: str, flags: tuple[str, ...] = ()) -> Value:
    """Return the median of samples, with a distribution-free interval."""
    return Value(
        median(samples),
        method,
        n=len(samples),
        ci=median_interval(samples),
        samples=tuple(samples),
        flags=flags,
    )


def median_interval(samples: Sequence[float], coverage: float = 0.95) -> tuple[float, float, float]:
    """Return the narrowest symmetric pair of order statistics that covers the median.

    No distribution is assumed: the number of samples below the median is binomial. With too few
    samples the extremes are returned, with their smaller coverage.

    Returns:
        Low, high, and the actual coverage.
    """
    ordered, n = sorted(samples), len(samples)
    best = (ordered[0], ordered[-1], 1 - 2 * 0.5**n)
    for trim in range(1, (n + 1) // 2):
        below = sum(math.comb(n, k) for k in range(trim + 1)) / 2**n
        if 1 - 2 * below < coverage:
            break
        best = (ordered[trim], ordered[n - 1 - trim], 1 - 2 * below)
    return best


def as_json(values: Values) -> dict[str, dict[str, Any]]:
    """Return metrics as JSON, in the form of a record.

    A figure that is not finite becomes null with a reason.
    """
    out: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        kind = METRICS[name.split(".")[0]]
        fields = asdict(value)
        if value.value is not None and not math.isfinite(value.value):
            reason = f"not finite: {value.value}"
            fields |= {"value": None, "reason": reason, "quality": "missing"}
        for key in ("ci", "samples"):
            if fields[key] and not all(map(math.isfinite, fields[key])):
                fields[key] = None
        fields["ci"] = list(fields["ci"]) if fields["ci"] else None
        fields["samples"] = list(fields["samples"] or ())
        fields["flags"] = list(fields["flags"])
        fields["ranks"] = list(fields["ranks"])
        out[name] = {"unit": kind.unit, "better": kind.better, "scope": kind.scope, **fields}
    return out
