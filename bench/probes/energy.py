"""Energy by the device's counter, interpolated between its ticks.

The counter moves in ticks (on NVIDIA about every 100 ms), so that naive readings at the ends of a
window err by up to a tick. A thread stamps every tick while steps run before, during and after the
window; the counter is interpolated at the window's two ends, where the work is the same on both
sides, and no idle tail leaks in.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from threading import Event, Thread
from time import perf_counter

from bench.devices import Device, Unavailable
from bench.metrics import Value, Values, missing
from bench.ranks import ALONE, Ranks


@dataclass(frozen=True, slots=True)
class Window:
    """How long to count.

    Attributes:
        seconds: Shortest window.
        ticks: Fewest ticks of the counter inside it that make a figure.
        padding_s: Steps run for at least so long before and after it.
        poll_s: How often the counter is read.
        limit_s: Longest time for everything.
    """

    seconds: float = 5.0
    ticks: int = 20
    padding_s: float = 0.5
    poll_s: float = 0.002
    limit_s: float = 60.0


class _Ticks:
    """Polls the counter in a thread and notes the moments at which it moved."""

    def __init__(self, device: Device, poll_s: float) -> None:
        self._device, self._poll_s = device, poll_s
        self.times: list[float] = []
        self.joules: list[float] = []
        self.error: Unavailable | None = None
        self._stop = Event()
        self._thread = Thread(target=self._poll, daemon=True)

    def __enter__(self) -> "_Ticks":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _poll(self) -> None:
        last = None
        while not self._stop.is_set():
            try:
                joules = self._device.energy_j()
            except Unavailable as error:
                self.error = error
                return
            if joules != last:
                self.times.append(perf_counter())
                self.joules.append(joules)
                last = joules
            self._stop.wait(self._poll_s)


def measure_energy(
    step: Callable[[], object], device: Device, window: Window, ranks: Ranks = ALONE
) -> Values:
    """``energy_per_step_j`` and ``mean_power_w``, or why not."""
    why_not = ""
    try:
        device.energy_j()
    except Unavailable as error:
        why_not = str(error)
    if not ranks.every(not why_not):
        return _none(why_not or "another rank has no energy counter")
    deadline = perf_counter() + window.limit_s
    run_for = partial(_run_for, step, device, ranks, deadline)
    with _Ticks(device, window.poll_s) as ticks:
        run_for(window.padding_s)
        start = perf_counter()
        steps = run_for(window.seconds)
        stop = perf_counter()
        run_for(window.padding_s)
    if ticks.error:
        return _none(str(ticks.error))
    inside = bisect_right(ticks.times, stop) - bisect_right(ticks.times, start)
    if inside < window.ticks:
        return _none(f"{inside} ticks of the energy counter in {stop - start:.1f} s are too few")
    if any(later < earlier for earlier, later in pairwise(ticks.joules)):
        return _none("the energy counter went backwards")
    joules = interpolate(ticks.times, ticks.joules, stop) - interpolate(
        ticks.times, ticks.joules, start
    )
    method = f"counter interpolated between {inside} ticks over {stop - start:.1f} s"
    return {
        "energy_per_step_j": Value(joules / steps, method, n=steps),
        "mean_power_w": Value(joules / (stop - start), method, n=steps),
    }


def interpolate(times: Sequence[float], joules: Sequence[float], moment: float) -> float:
    """The counter at a moment, linear between ticks, constant outside them."""
    place = bisect_right(times, moment)
    if place in {0, len(times)}:
        return joules[0 if place == 0 else -1]
    t0, t1, e0, e1 = times[place - 1], times[place], joules[place - 1], joules[place]
    return e0 + (e1 - e0) * (moment - t0) / (t1 - t0)


def _run_for(
    step: Callable[[], object], device: Device, ranks: Ranks, deadline: float, seconds: float
) -> int:
    """Runs steps for at least `seconds`, one at least; returns how many."""
    start, steps = perf_counter(), 0

    def goes_on() -> bool:
        now = perf_counter()
        return ranks.first(not steps or (now - start < seconds and now < deadline))

    while goes_on():
        step()
        device.synchronize()
        steps += 1
    return steps


def _none(reason: str) -> Values:
    return {"energy_per_step_j": missing(reason), "mean_power_w": missing(reason)}
