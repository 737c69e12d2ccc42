"""How busy the host and the device were, and how much of their peak was used."""

import os
import resource
from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

from bench.devices import Device, Unavailable
from bench.metrics import Value, Values, from_samples, missing
from workloads.workload import Facts

T = TypeVar("T")


def watch_cpu(work: Callable[[], T]) -> tuple[T, Values]:
    """Runs `work` and gives its result and ``cpu_busy_pct``."""
    cores = len(os.sched_getaffinity(0))
    before, start = resource.getrusage(resource.RUSAGE_SELF), perf_counter()
    result = work()
    after, stop = resource.getrusage(resource.RUSAGE_SELF), perf_counter()
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    busy = 100 * used / (stop - start) / cores
    return result, {"cpu_busy_pct": Value(busy, f"getrusage over wall time and {cores} cores")}


def device_busy(device: Device, step: Callable[[], object], window_s: float = 2.0) -> Values:
    """Reads the device's own busy counter while steps run.

    The driver averages over up to a second, so that the first half of the window is not read.
    """
    readings: list[float] = []
    start = perf_counter()
    try:
        device.busy_pct()
        while not readings or perf_counter() - start < window_s:
            step()
            if perf_counter() - start >= window_s / 2:
                readings.append(device.busy_pct())
    except Unavailable as error:
        return {"device_busy_pct": missing(str(error))}
    return {"device_busy_pct": from_samples(readings, f"driver, over {window_s:g} s of steps")}


def model_flop_rates(device: Device, facts: Facts, seconds: float) -> Values:
    """Model FLOPs of a step over its time, and over what the device could do in it."""
    rate = facts.step_flops / seconds
    method = "model FLOPs of a step over median step time"
    return {
        "achieved_flops": Value(rate, method),
        "model_flop_utilization": _share(device, facts, rate, method),
    }


def hardware_flop_utilization(
    device: Device, facts: Facts, flops: float | None, seconds: float
) -> Values:
    """The same of the FLOPs that a step executed, recomputation included."""
    method = "counted FLOPs of a step over median step time"
    if flops is None:
        return {"hardware_flop_utilization": missing("hardware_flops was not counted")}
    return {"hardware_flop_utilization": _share(device, facts, flops / seconds, method)}


def _share(device: Device, facts: Facts, rate: float, method: str) -> Value:
    try:
        peak = device.peak_flops(facts.arithmetic)
    except Unavailable as error:
        return missing(str(error))
    return Value(rate / peak, f"{method} and dense {facts.arithmetic} peak")
