"""How busy the host and the device were, and how much of their peak was used."""

import os
import resource
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TypeVar

from bench.cgroup import usable_cores
from bench.devices import Device, Unavailable
from bench.metrics import Value, Values, from_samples, missing
from bench.ranks import ALONE, Ranks
from workloads.workload import Facts

T = TypeVar("T")

_STAT = Path("/proc/stat")
# Above what an idle system's own services take.
_DISTURBED_PCT = 10.0


def watch_cpu(work: Callable[[], T], ranks: Ranks = ALONE) -> tuple[T, Values]:
    """Runs `work` and gives its result, ``cpu_busy_pct`` and ``foreign_busy_pct``.

    The ranks of a case are not foreign to each other; they share the host.
    """
    cores = sorted(os.sched_getaffinity(0))
    usable = usable_cores()
    own, everyone, start = _own_seconds(), _all_seconds(cores), perf_counter()
    result = work()
    own, stop = _own_seconds() - own, perf_counter()
    together = ranks.total(own)
    share = 100 / (stop - start)
    over = f"getrusage over wall time and {usable} cores"
    values = {"cpu_busy_pct": Value(own * share / usable, over)}
    if everyone is None or (now := _all_seconds(cores)) is None:
        values["foreign_busy_pct"] = missing(f"{_STAT} does not tell of these cores")
    else:
        foreign = max(0.0, now - everyone - together)
        over = f"{_STAT} less getrusage over wall time and {len(cores)} cores"
        values["foreign_busy_pct"] = Value(foreign * share / len(cores), over)
    return result, values


def disturbance(cpu: Values) -> str:
    """A flag for what was timed meanwhile, if others took much of the cores."""
    foreign = cpu["foreign_busy_pct"].value
    if foreign is None or foreign < _DISTURBED_PCT:
        return ""
    return f"disturbed: others used {foreign:.0f} % of the cores"


def _own_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _all_seconds(cores: Sequence[int]) -> float | None:
    """Seconds in which these cores did something, since the start of the machine."""
    wanted = {f"cpu{core}" for core in cores}
    try:
        rows = [line.split() for line in _STAT.read_text(encoding="utf-8").splitlines()]
        # user, nice, system, idle, iowait, irq, softirq, steal: all but the fourth and fifth.
        ticks = [[int(n) for n in row[1:9]] for row in rows if row and row[0] in wanted]
    except (OSError, ValueError):
        return None
    if len(ticks) < len(wanted):
        return None
    return sum(sum(row) - row[3] - row[4] for row in ticks) / os.sysconf("SC_CLK_TCK")


def device_busy(
    device: Device,
    step: Callable[[], object],
    ranks: Ranks = ALONE,
    window_s: float = 2.0,
) -> Values:
    """Reads the device's own busy counter while steps run.

    The driver averages over up to a second, so that the first half of the window is not read.
    """
    readings: list[float] = []
    why_not = ""

    def read() -> None:
        nonlocal why_not
        try:
            readings.append(device.busy_pct())
        except Unavailable as error:
            why_not = why_not or str(error)

    read()
    if ranks.every(not why_not):
        readings.clear()
        start = perf_counter()
        while ranks.first(perf_counter() - start < window_s):
            step()
            if perf_counter() - start >= window_s / 2:
                read()
    if why_not or not readings:
        return {"device_busy_pct": missing(why_not or "another rank has no busy counter")}
    return {"device_busy_pct": from_samples(readings, f"driver, over {window_s:g} s of steps")}


def model_flop_rates(device: Device, facts: Facts, seconds: float) -> Values:
    """Model FLOPs of a step over its time, and over what the device could do in it."""
    method = "model FLOPs of a step over median step time"
    if not facts.step_flops:
        why = missing("a step has no matrix product, and only these count as FLOPs", method)
        return {"achieved_flops": why, "model_flop_utilization": why}
    rate = facts.step_flops / seconds
    return {
        "achieved_flops": Value(rate, method),
        "model_flop_utilization": _share(device, facts, rate, method),
    }


def hardware_flop_utilization(device: Device, facts: Facts, flops: Value, seconds: float) -> Values:
    """The same of the FLOPs that a step executed, recomputation included."""
    method = "counted FLOPs of a step over median step time"
    if flops.value is None:
        return {"hardware_flop_utilization": missing(f"no hardware_flops: {flops.reason}")}
    share = _share(device, facts, flops.value / seconds, method)
    return {"hardware_flop_utilization": replace(share, flags=flops.flags)}


def _share(device: Device, facts: Facts, rate: float, method: str) -> Value:
    try:
        peak = device.peak_flops(facts.arithmetic)
    except Unavailable as error:
        return missing(str(error))
    return Value(rate / peak, f"{method} and dense {facts.arithmetic} peak")
