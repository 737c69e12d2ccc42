"""Utilization: busy shares of host and device, and shares of the peak rate."""

import os
import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TypeVar

from bench.cgroup import usable_cores
from bench.devices import Device, Unavailable
from bench.records.metrics import Value, Values, from_samples, missing
from bench.run.ranks import ALONE, Ranks
from workloads.workload import StaticCosts

T = TypeVar("T")

_STAT = Path("/proc/stat")
# Above the load of an idle system's services.
_DISTURBED_PCT = 10.0
# Minimum time over which a reading of activity is averaged. Unit: s.
_ACTIVITY_S = 0.1
_NO_READING = "no reading was taken: another rank has no counter, or steps were too short"


def watch_cpu(work: Callable[[], T], ranks: Ranks = ALONE) -> tuple[T, Values]:
    """Run `work` and return its result, ``cpu_busy_pct`` and ``foreign_busy_pct``.

    The ranks of a case are not foreign to each other; they share the host.
    """
    cores = sorted(os.sched_getaffinity(0))
    usable = usable_cores()
    process_s, all_before, start = _process_seconds(), _all_seconds(cores), perf_counter()
    result = work()
    process_s, stop = _process_seconds() - process_s, perf_counter()
    case_s = ranks.total(process_s)
    share = 100 / (stop - start)
    over = f"CPU time of process and descendants over wall time and {usable} cores"
    values = {"cpu_busy_pct": Value(process_s * share / usable, over)}
    if all_before is None or (all_after := _all_seconds(cores)) is None:
        values["foreign_busy_pct"] = missing(f"{_STAT} does not list these cores")
    else:
        foreign = max(0.0, all_after - all_before - case_s)
        over = f"{_STAT} less the CPU time of process and descendants, over {len(cores)} cores"
        values["foreign_busy_pct"] = Value(foreign * share / len(cores), over)
    return result, values


def disturbance(cpu: Values) -> str:
    """Return a flag for the times measured meanwhile, if other processes used the cores."""
    foreign = cpu["foreign_busy_pct"].value
    if foreign is None or foreign < _DISTURBED_PCT:
        return ""
    return f"disturbed: others used {foreign:.0f} % of the cores"


def shared_cores(device: Device, ranks: Ranks) -> str:
    """Return a flag for times if ranks on a CPU have less than a core each."""
    cores = usable_cores()
    if device.torch_device.type != "cpu" or ranks.count <= cores:
        return ""
    return f"{ranks.count} ranks shared {cores:g} cores"


def _process_seconds() -> float:
    """Return the CPU time of this process, its ended children and its live descendants. Unit: s.

    Loader processes belong to the case: their work is not that of others.
    """
    own, ended = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    finished = own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime
    return finished + sum(map(_live_seconds, _descendants(os.getpid())))


def _descendants(pid: int) -> Iterator[int]:
    """Yield the live descendants of a process; none where the kernel does not list them."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in path.read_text(encoding="ascii").split()]
        except (OSError, ValueError):
            continue  # the thread has ended
        for child in children:
            yield child
            yield from _descendants(child)


def _live_seconds(pid: int) -> float:
    """Return the CPU time of a process and of its ended children; 0 if it has ended. Unit: s."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0.0
    # After the name, which may contain anything: utime, stime, cutime and cstime.
    ticks = text.rpartition(")")[2].split()[11:15]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def _all_seconds(cores: Sequence[int]) -> float | None:
    """Return the busy time of these cores since the machine started; None if unknown. Unit: s."""
    names = {f"cpu{core}" for core in cores}
    try:
        rows = [line.split() for line in _STAT.read_text(encoding="utf-8").splitlines()]
        # user, nice, system, idle, iowait, irq, softirq, steal: all but the fourth and fifth.
        ticks = [[int(n) for n in row[1:9]] for row in rows if row and row[0] in names]
    except (OSError, ValueError):
        return None
    if len(ticks) < len(names):
        return None
    return sum(sum(row) - row[3] - row[4] for row in ticks) / os.sysconf("SC_CLK_TCK")


def device_busy(
    device: Device,
    step: Callable[[], object],
    ranks: Ranks = ALONE,
    window_s: float = 2.0,
) -> Values:
    """Read the device's own counters while steps run.

    The driver averages the busy share over up to a second, so it is not read in the first half of
    the window.

    Returns:
        ``device_busy_pct`` and ``unit_activity_pct.<unit>``, or the reason for none.
    """
    busy, activity = _BusyCounter(device), _ActivityCounter(device)
    has_any = [busy.read(), activity.read()]
    if ranks.every(any(has_any)):
        busy.clear()
        activity.clear()
        start = perf_counter()
        activity.read()
        while ranks.first(perf_counter() - start < window_s):
            step()
            activity.read()
            if perf_counter() - start >= window_s / 2:
                busy.read()
    return busy.values(window_s) | activity.values(window_s)


class _BusyCounter:
    """Readings of the share of time in which a kernel ran."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._readings: list[float] = []
        self._reason = ""

    def read(self) -> bool:
        """Take a reading; return whether the device has the counter."""
        if self._reason:
            return False
        try:
            self._readings.append(self._device.busy_pct())
        except Unavailable as error:
            self._reason = str(error)
        return not self._reason

    def clear(self) -> None:
        """Drop the readings so far."""
        self._readings.clear()

    def values(self, window_s: float) -> Values:
        """Return ``device_busy_pct``."""
        if self._reason or not self._readings:
            return {"device_busy_pct": missing(self._reason or _NO_READING)}
        method = f"driver, over {window_s:g} s of steps"
        return {"device_busy_pct": from_samples(self._readings, method)}


class _ActivityCounter:
    """Readings of the activity of the chip's units, each the mean since the previous one."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._last: float | None = None
        self._readings: dict[str, list[tuple[float, float]]] = {}
        self._reason = ""

    def read(self) -> bool:
        """Take a reading unless the last is too recent; return whether there is a counter."""
        now = perf_counter()
        if self._reason:
            return False
        if self._last is not None and now - self._last < _ACTIVITY_S:
            return True
        try:
            activity = self._device.activity_pct()
        except Unavailable as error:
            self._reason = str(error)
            return False
        # The first reading only starts the time over which the next is averaged.
        if self._last is not None:
            for unit, percent in activity.items():
                self._readings.setdefault(unit, []).append((now - self._last, percent))
        self._last = now
        return True

    def clear(self) -> None:
        """Drop the readings so far; the next one starts a new mean."""
        self._last = None
        self._readings.clear()

    def values(self, window_s: float) -> Values:
        """Return ``unit_activity_pct`` by unit."""
        if not self._readings:
            return {"unit_activity_pct": missing(self._reason or _NO_READING)}
        values: Values = {}
        for unit, readings in self._readings.items():
            seconds = sum(length for length, _ in readings)
            mean = sum(length * percent for length, percent in readings) / seconds
            values[f"unit_activity_pct.{unit}"] = Value(
                mean,
                f"counters of the device, mean over {window_s:g} s of steps",
                n=len(readings),
                samples=tuple(percent for _, percent in readings),
            )
        return values


def model_flop_rates(device: Device, facts: StaticCosts, seconds: float) -> Values:
    """Return the model FLOP rate of a step, and its ratio to the device's peak rate."""
    method = "model FLOPs per step over median step time"
    if not facts.step_flops:
        why = missing("a step has no matrix product; no other work counts as FLOPs", method)
        return {"achieved_flops": why, "model_flop_utilization": why}
    rate = facts.step_flops / seconds
    return {
        "achieved_flops": Value(rate, method),
        "model_flop_utilization": _share(device, facts, rate, method),
    }


def hardware_flop_utilization(
    device: Device, facts: StaticCosts, flops: Value, seconds: float
) -> Values:
    """Return the utilization by executed FLOPs, recomputation included."""
    method = "counted FLOPs per step over median step time"
    if flops.value is None:
        return {"hardware_flop_utilization": missing(f"no hardware_flops: {flops.reason}")}
    share = _share(device, facts, flops.value / seconds, method)
    return {"hardware_flop_utilization": replace(share, flags=flops.flags)}


def _share(device: Device, facts: StaticCosts, rate: float, method: str) -> Value:
    try:
        peak = device.peak_flops(facts.arithmetic)
    except Unavailable as error:
        return missing(str(error))
    return Value(rate / peak, f"{method} and dense {facts.arithmetic} peak")
