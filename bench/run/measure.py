"""Measurement of one case in this process: passes in order, all metrics of one execution.

1. Memory: the first step and a steady one, the C allocator giving freed blocks back.
2. Time, CPU use, busy share, energy, and the device's time alone: nothing else runs, nothing is
   traced.
3. Counts: the same step under the profiler on an accelerator, and under a dispatch mode.
"""

import gc
import math
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch

from bench.devices import Device
from bench.probes.communication import COLLECTIVE, WaitProbe, count_collectives
from bench.probes.counts import COUNTED, count_kernels, count_operators
from bench.probes.energy import Window, measure_energy
from bench.probes.memory import MemoryProbe
from bench.probes.phase_times import device_and_host_times
from bench.probes.roofline import roofline_bounds
from bench.probes.steps import StepTime, run_step, timed_step
from bench.probes.telemetry import Telemetry
from bench.probes.time import measure_time
from bench.probes.utilization import (
    device_busy,
    disturbance,
    hardware_flop_utilization,
    model_flop_rates,
    shared_cores,
    watch_cpu,
)
from bench.records.metrics import Value, Values, as_json, flagged, missing
from bench.run.ranks import ALONE, Ranks
from workloads.predicted_costs import predicted_costs
from workloads.workload import Config, ExecutionContext, Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """Passes of a measurement and their lengths.

    Attributes:
        warmup_steps: Steps before the timed ones.
        timed_steps: Steps whose times are stored.
        counts: Whether the counting pass runs.
        energy_s: Shortest energy window.
    """

    warmup_steps: int = 2
    timed_steps: int = 7
    counts: bool = True
    energy_s: float = 5.0


def measure(
    workload: Workload,
    config: Config,
    setting: ExecutionContext,
    device: Device,
    protocol: Protocol,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Run a case through all passes; with several ranks each runs all of them.

    Returns:
        The parts of a record that only the measuring process knows: metrics, facts, outcome,
        breakdown, notes.
    """
    facts = workload.static_costs(config)
    memory = MemoryProbe(device)
    program = workload.build(config, setting)
    first: list[StepTime] = []
    values: Values = memory.peaks(lambda: first.append(timed_step(program, device)), first=True)
    values["first_step_time_s"] = Value(first[0].total, "stopwatch, freed blocks given back")
    values |= memory.peaks(partial(run_step, program), first=False)
    memory.finish()
    gc.collect()

    telemetry = Telemetry(device)
    for _ in range(protocol.warmup_steps):
        timed_step(program, device)
    program.implementations()
    telemetry.read()
    waits = WaitProbe()
    after_step = partial(_read, telemetry, waits)
    timing = partial(measure_time, program, device, protocol.timed_steps, after_step)
    (times, steps), cpu = watch_cpu(timing, ranks)
    telemetry.read()
    timed_on = program.implementations()
    for flag in (disturbance(cpu), telemetry.throttling(), shared_cores(device, ranks)):
        times = flagged(times, flag)
    values |= times | cpu | waits.values(device, ranks) | memory.device_used()
    seconds = median(step.total for step in steps)
    values |= model_flop_rates(device, facts, seconds)
    values |= roofline_bounds(device, facts, seconds)
    values |= device_busy(device, partial(timed_step, program, device), ranks)
    window = Window(seconds=protocol.energy_s)
    values |= measure_energy(partial(run_step, program), device, window, ranks)
    values |= device_and_host_times(program, device)
    outcome = {
        name: value if math.isfinite(value) else None for name, value in program.outcome().items()
    }
    notes = program.notes() | {"implementations": timed_on, "threads": torch.get_num_threads()}
    # In the order in which they run, which the names of metrics do not keep.
    notes["phases"] = list(program.phases)

    breakdown: dict[str, Any] = {}
    if protocol.counts:
        program.implementations()
        kernels, by_kernel = count_kernels(program, device)
        values |= flagged(kernels, _otherwise(timed_on, program.implementations()))
        collectives, by_collective = count_collectives(partial(run_step, program), ranks)
        values |= collectives
        operators, by_operator = count_operators(program)
        operators = flagged(operators, _otherwise(timed_on, program.implementations()))
        values |= operators
        breakdown = by_operator | by_kernel | by_collective
        values |= predicted_peak(workload, config)
    else:
        left_out = (*COUNTED, *COLLECTIVE, "predicted_peak_bytes")
        values |= dict.fromkeys(left_out, missing("the protocol leaves counts out"))
    values |= hardware_flop_utilization(device, facts, values["hardware_flops"], seconds)
    return {
        "metrics": as_json(values),
        "facts": facts.as_json(),
        "telemetry": telemetry.as_json(),
        "outcome": outcome,
        "breakdown": breakdown,
        "notes": notes,
    }


def _read(telemetry: Telemetry, waits: WaitProbe) -> None:
    telemetry.read_throttling()
    waits.read()


def predicted_peak(workload: Workload, config: Config) -> Values:
    """Return the peak of a step with shapes alone, whole and by state."""
    try:
        peak = predicted_costs(workload, config).peak
    except Exception as error:  # a workload that cannot be traced is measured all the same
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return {"predicted_peak_bytes": missing(f"it cannot be traced: {reason:.200}")}
    method = "dispatch mode over fake tensors"
    values = {"predicted_peak_bytes": Value(peak.nbytes, method, quality="counted")}
    for state, nbytes in peak.by_state.items():
        values[f"predicted_peak_bytes.{state}"] = Value(nbytes, method, quality="counted")
    return values


def _otherwise(timed_on: dict[str, str], counted_on: dict[str, str]) -> str:
    """Return a flag that names the operators counted on another implementation than was timed."""
    differing = [
        f"{name} on {backend}"
        for name, backend in counted_on.items()
        if timed_on.get(name) != backend
    ]
    return f"not what was timed: {', '.join(differing)}" if differing else ""
