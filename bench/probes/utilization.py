"""How busy the host and the device were, and how much of their peak was used."""

import os
import resource
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import TypeVar

from bench.devices import Device, Unavailable
from bench.metrics import Value, Values, from_samples, missing

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


def device_busy(device: Device, step: Callable[[], object], steps: int) -> Values:
    """Reads the device's own busy counter after each of some steps."""
    try:
        device.busy_pct()
        readings = []
        for _ in range(steps):
            step()
            readings.append(device.busy_pct())
    except Unavailable as error:
        return {"device_busy_pct": missing(str(error))}
    return {"device_busy_pct": from_samples(readings, "driver, after each step")}


def flop_rates(device: Device, step_flops: int, step_times: Sequence[float]) -> Values:
    """Model FLOPs over time, and over the device's sourced peak."""
    rate = step_flops / median(step_times)
    values = {"achieved_flops": Value(rate, "model FLOPs of a step over median step time")}
    try:
        share = rate / device.peak_flops()
    except Unavailable as error:
        values["model_flop_utilization"] = missing(str(error))
    else:
        method = "model FLOPs over median step time and dense bfloat16 peak"
        values["model_flop_utilization"] = Value(share, method)
    return values
