"""Energy of a step by the device's counter, gross and above that of the idle device.

1. The device idles, with a live context and nothing queued.
2. Steps run until the time of a step is known and the power has settled.
3. The window: a number of steps fixed beforehand, with one synchronization at its end. It lasts for
   the requested time or, if longer, for 20 ticks of the counter.
4. Steps continue, so that the work is the same on both sides of the window's end and no idle time
   is included; then the device idles again.

A thread polls the counter throughout; `bench.probes.energy_ticks` evaluates its ticks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter, sleep

from bench.devices import Device, Unavailable
from bench.probes.energy_ticks import (
    COVERAGE,
    SpanEnergy,
    Ticks,
    TicksError,
    energy_between,
    idle_energy,
)
from bench.probes.poller import CounterPoller, Poller
from bench.probes.queued_steps import QueuedSteps, StepEvent, event_maker
from bench.records.metrics import Value, Values, missing
from bench.run.ranks import ALONE, Ranks

ENERGY = ("energy_per_step_j", "mean_power_w", "idle_power_w", "energy_above_idle_per_step_j")
# Allowance for polling and jitter beyond the counter's own period.
_MARGIN = 1.15
# Ticks on each side of the window that are evaluated together with it.
_TICKS_BESIDE = 2.5
_TREND = 0.05
_IDLE_CHANGE = 0.1

Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Window:
    """Durations of an energy measurement.

    Attributes:
        seconds: Minimum length of the window. Unit: s.
        ticks: Minimum number of ticks in the window for a figure that is not degraded; the window
            is extended until it holds them.
        padding_s: Minimum time of steps before and after the window. Unit: s.
        poll_s: Period of polling the counter. Unit: s.
        limit_s: Maximum time of the window and the steps before it, although every window has at
            least one step. Unit: s.
        settle_s: Time from the last work to the idle span. Unit: s.
        idle_s: Minimum idle span, before and after the steps. Unit: s.
        idle_ticks: Minimum number of ticks in an idle span, which is extended up to fivefold.
    """

    seconds: float = 5.0
    ticks: int = 20
    padding_s: float = 1.0
    poll_s: float = 0.002
    limit_s: float = 60.0
    settle_s: float = 0.5
    idle_s: float = 1.0
    idle_ticks: int = 5


@dataclass(frozen=True, slots=True)
class Instruments:
    """Clock, poller and queue of a measurement; tests substitute simulated ones.

    Attributes:
        now: Clock of the host. Unit: s.
        wait: Function that waits for a number of seconds.
        poll: Function that returns the poller of a device for a polling period.
        events: Function that returns the factory of a device's events.
    """

    now: Callable[[], float] = perf_counter
    wait: Callable[[float], None] = sleep
    poll: Callable[[Device, float], Poller] = CounterPoller
    events: Callable[[Device], Callable[[], StepEvent] | None] = event_maker


@dataclass(slots=True)
class _Course:
    """Spans of a measurement on the host's clock, and the number of steps in its window."""

    idle: list[Span] = field(default_factory=list)
    work: Span = (0.0, 0.0)
    window: Span = (0.0, 0.0)
    steps: int = 0


def measure_energy(
    step: Callable[[], object],
    device: Device,
    window: Window,
    ranks: Ranks = ALONE,
    instruments: Instruments | None = None,
) -> Values:
    """Return the metrics of `ENERGY`, each with its 95 % interval, or the reason for none.

    Args:
        step: Function that runs a step; work on an accelerator may be queued when it returns.
        device: Device on which it runs.
        window: Durations of the measurement.
        ranks: Ranks that run the same steps.
        instruments: Clock, poller and queue; None for the host's own.
    """
    tools = instruments or Instruments()
    reason = ""
    try:
        device.energy_reading()
    except Unavailable as error:
        reason = str(error)
    if not ranks.every(not reason):
        return _none(reason or "another rank has no energy counter")
    steps = QueuedSteps(step, device, ranks, tools.events(device), tools.now)
    with tools.poll(device, window.poll_s) as poller:
        course = _run(steps, device, window, ranks, tools, poller)
    if poller.error:
        return _none(str(poller.error))
    try:
        return _values(course, poller, window)
    except TicksError as error:
        return _none(str(error))


def _run(
    steps: QueuedSteps,
    device: Device,
    window: Window,
    ranks: Ranks,
    tools: Instruments,
    poller: Poller,
) -> _Course:
    """Run through the idle span, the steps and the second idle span."""
    course, now = _Course(), tools.now

    def idle() -> None:
        device.synchronize()
        ranks.every(True)  # the ranks may share the device
        tools.wait(window.settle_s)
        start = now()
        tools.wait(window.idle_s)
        while (
            poller.log.count(start, now()) < window.idle_ticks
            and now() - start < 5 * window.idle_s
            and not poller.error
        ):
            tools.wait(window.idle_s / 10)
        course.idle.append((start, now()))

    def has_enough() -> bool:
        return bool(poller.error) or poller.log.count(start, stop) >= window.ticks

    idle()
    begin = now()
    steps.estimate()
    steps.run(steps.count_for(window.padding_s))
    period = poller.log.period() or 0.0
    remaining = begin + window.limit_s - now()
    target = max(window.seconds, _MARGIN * window.ticks * period)
    count = steps.count_for(min(target, remaining))
    start = now()
    steps.run(count)
    stop = now()
    while not ranks.every(has_enough()) and ranks.first(stop < begin + window.limit_s):
        # The counter has slowed down: add the missing ticks at its present pace.
        pace = (stop - start) / max(poller.log.count(start, stop), 1)
        lacking = _MARGIN * pace * (window.ticks - poller.log.count(start, stop) + 1)
        more = steps.count_for(min(max(lacking, pace), begin + window.limit_s - now()))
        steps.run(more)
        count += more
        stop = now()
    period = poller.log.period() or 0.0
    steps.run(steps.count_for(max(window.padding_s, _TICKS_BESIDE * period)))
    course.work, course.window, course.steps = (begin, now()), (start, stop), count
    idle()
    return course


def _values(course: _Course, poller: Poller, window: Window) -> Values:
    ticks = Ticks.of(poller.log)
    start, stop = course.window
    period = poller.log.period() or 0.0
    beside = _TICKS_BESIDE * period
    steady = (max(course.work[0], start - beside), min(course.work[1], stop + beside))
    spent = energy_between(ticks, start, stop, steady)
    flags = _flags(ticks, spent, course, poller, window)
    method = (
        f"counter interpolated between {spent.ticks} ticks of {1e3 * period:.3g} ms over "
        f"{spent.seconds:.1f} s{', at the times of its own clock' * ticks.by_device}"
    )
    steps = course.steps
    values = {
        "energy_per_step_j": _value(
            spent.joules / steps, spent.error / steps, method, steps, flags
        ),
        "mean_power_w": _value(spent.watts, spent.watts_error, method, steps, flags),
    }
    return values | _idle_values(ticks, spent, course, method, flags)


def _idle_values(
    ticks: Ticks, spent: SpanEnergy, course: _Course, method: str, flags: tuple[str, ...]
) -> Values:
    try:
        before, after = (idle_energy(ticks, *span) for span in course.idle)
    except TicksError as lacking:
        return dict.fromkeys(ENERGY[2:], missing(str(lacking)))
    watts = (before.watts + after.watts) / 2
    # The idle power during the window is between the two, or not far beyond one of them.
    error = abs(after.watts - before.watts) / 2 + max(before.watts_error, after.watts_error)
    changed: tuple[str, ...] = ()
    if abs(after.watts - before.watts) > _IDLE_CHANGE * watts:
        changed = (f"idle power {before.watts:.0f} W before and {after.watts:.0f} W after",)
    seconds, steps = spent.seconds, course.steps
    above = spent.joules - watts * seconds
    above_error = (spent.error**2 + (error * seconds) ** 2) ** 0.5
    idle = f"counter between ticks, idle for {before.seconds:.1f} s before and after the steps"
    parts = {
        f"idle_power_w.{name}": _value(span.watts, span.watts_error, idle, 1, ())
        for name, span in (("before", before), ("after", after))
    }
    return {
        "idle_power_w": _value(watts, error, f"mean of two: {idle}", 2, changed),
        **parts,
        "energy_above_idle_per_step_j": _value(
            above / steps, above_error / steps, f"{method}, less idle power", steps, flags + changed
        ),
    }


def _flags(
    ticks: Ticks, spent: SpanEnergy, course: _Course, poller: Poller, window: Window
) -> tuple[str, ...]:
    """Return the reasons for which a figure is degraded."""
    start, stop = course.window
    flags = []
    if spent.ticks < window.ticks:
        flags.append(f"few ticks: {spent.ticks} in {spent.seconds:.1f} s")
    throttled = {
        reason
        for moment, reasons in poller.throttled
        if start < moment <= stop
        for reason in reasons
    }
    if throttled:
        flags.append(f"throttled: {', '.join(sorted(throttled))}")
    first = ticks.at((start + stop) / 2) - ticks.at(start)
    change = (spent.joules - 2 * first) / spent.joules * 2 if spent.joules else 0.0
    if abs(change) * spent.joules > _TREND * spent.joules + 4 * spent.error:
        flags.append(f"power changes by {100 * change:+.0f} % from one half to the other")
    return tuple(flags)


def _value(figure: float, error: float, method: str, n: int, flags: tuple[str, ...]) -> Value:
    return Value(
        figure,
        method,
        n=n,
        ci=(figure - error, figure + error, COVERAGE),
        quality="degraded" if flags else "measured",
        flags=flags,
    )


def _none(reason: str) -> Values:
    return dict.fromkeys(ENERGY, missing(reason))
