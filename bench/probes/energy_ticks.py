"""Energy of a time span from the ticks of a counter, with its uncertainty.

A counter advances in ticks (on NVIDIA about every 100 ms) and is polled, so the time of a tick is
known to lie between two polls. The counter's value at a moment is interpolated between the ticks
around it. The error is estimated from the ticks themselves: each is predicted from its two
neighbours, over twice the distance of an interpolation, and the residuals include both the jitter
of the time stamps and changes of power. The accuracy of the sensor is not part of the uncertainty.
"""

from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bench.devices.device import EnergyReading

COVERAGE = 0.95
# Minimum number of ticks in a span for an energy to be reported.
FEWEST_TICKS = 3
# Minimum number of residuals for an estimate of the error.
_FEWEST_RESIDUALS = 5
# The jitter of a tick enters its own residual and, halved, those of its neighbours.
_RESIDUAL_TO_STAMP = 1.5**-0.5
# A device clock whose rate deviates more is in another unit, or stands still.
_CLOCK_TOLERANCE = 0.05


class TicksError(Exception):
    """Ticks from which no energy can be derived."""


@dataclass(slots=True)
class TickLog:
    """Ticks of a counter, detected from successive readings.

    Attributes:
        times: Host's time of each tick: the middle of the two polls around it. Unit: s.
        joules: Counter after each tick, from an arbitrary zero. Unit: J.
        device_times: The device's own times of the ticks; None for readings without one. Unit: s.
    """

    times: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)
    device_times: list[float | None] = field(default_factory=list)
    _last: tuple[float, float] | None = None

    def add(self, moment: float, reading: EnergyReading) -> bool:
        """Add a reading at a moment of the host's clock; return whether it is a tick.

        The first reading is not a tick: the counter may have advanced long before.
        """
        last, self._last = self._last, (moment, reading.joules)
        if last is None or last[1] == reading.joules:
            return False
        self.times.append((last[0] + moment) / 2)
        self.joules.append(reading.joules)
        self.device_times.append(reading.device_s)
        return True

    def count(self, start: float, stop: float) -> int:
        """Return the number of ticks in a span."""
        return sum(start < time <= stop for time in tuple(self.times))

    def period(self) -> float | None:
        """Return the median time from tick to tick; None if there are fewer than three. Unit: s."""
        times = tuple(self.times)
        return float(np.median(np.diff(times))) if len(times) > 2 else None


@dataclass(frozen=True, slots=True)
class Ticks:
    """Ticks on one clock, in order.

    Attributes:
        times: Times on the host's clock. Unit: s.
        joules: Counter from an arbitrary zero. Unit: J.
        clock_error_s: Half of the 95 % interval of the deviation of the device's clock from the
            host's over the log; 0 if the times are the host's. Unit: s.
        by_device: Whether the times are from the device's clock.
    """

    times: NDArray[np.float64]
    joules: NDArray[np.float64]
    clock_error_s: float = 0.0
    by_device: bool = False

    @classmethod
    def of(cls, log: TickLog) -> Self:
        """Return the ticks of a log, at the device's own times if it has them.

        These times are mapped to the host's clock by a linear fit, which averages out the jitter of
        polling. A clock that stands still, or runs at another rate, is not used.

        Raises:
            TicksError: The counter decreased.
        """
        times, joules = np.array(log.times), np.array(log.joules)
        if np.any(np.diff(joules) < 0):
            raise TicksError("the energy counter went backwards")
        if None in log.device_times or len(times) < _FEWEST_RESIDUALS:
            return cls(times, joules)
        device = np.array(log.device_times, dtype=float)
        if np.any(np.diff(device) <= 0):
            return cls(times, joules)  # the clock stood still, or was set back
        slope, offset = np.polyfit(device - device[0], times, 1)
        if abs(slope - 1) > _CLOCK_TOLERANCE:
            return cls(times, joules)
        fitted = offset + slope * (device - device[0])
        spread = float(np.std(times - fitted, ddof=2))
        # Standard error of the slope times the length of the log.
        error = _quantile(len(times)) * spread * (12 / len(times)) ** 0.5
        return cls(fitted, joules, error, True)

    def at(self, moment: float) -> float:
        """Return the counter at a moment, linear between ticks and constant outside them."""
        return float(np.interp(moment, self.times, self.joules))

    def __len__(self) -> int:
        return len(self.times)


@dataclass(frozen=True, slots=True)
class SpanEnergy:
    """Energy of a time span.

    Attributes:
        joules: Energy. Unit: J.
        error: Half of the 95 % interval. Unit: J.
        ticks: Ticks in the span.
        seconds: Length of the span. Unit: s.
    """

    joules: float
    error: float
    ticks: int
    seconds: float

    @property
    def watts(self) -> float:
        """Mean power. Unit: W."""
        return self.joules / self.seconds

    @property
    def watts_error(self) -> float:
        """Half of the 95 % interval of the mean power. Unit: W."""
        return self.error / self.seconds


def energy_between(
    ticks: Ticks, start: float, stop: float, steady: tuple[float, float]
) -> SpanEnergy:
    """Return the energy between two moments.

    Args:
        ticks: Ticks of the counter.
        start: Start of the span on the host's clock. Unit: s.
        stop: End of the span on the host's clock. Unit: s.
        steady: Longer span with the same work throughout. Unit: s.

    Raises:
        TicksError: The span has fewer than three ticks, or the steady span has none on either side.
    """
    inside = int(np.count_nonzero((ticks.times > start) & (ticks.times <= stop)))
    seconds = stop - start
    if inside < FEWEST_TICKS:
        raise TicksError(
            f"{inside} ticks of the energy counter in {seconds:.1f} s are too few: at least "
            f"{FEWEST_TICKS} are needed"
        )
    same = (ticks.times >= steady[0]) & (ticks.times <= steady[1])
    times, joules = ticks.times[same], ticks.joules[same]
    if not (times[0] <= start and times[-1] >= stop):
        raise TicksError("the energy counter did not tick both before and after the window")
    joules_between = ticks.at(stop) - ticks.at(start)
    clock = joules_between / seconds * ticks.clock_error_s
    error = _end_errors(times, joules, start, stop)
    return SpanEnergy(joules_between, float(np.hypot(error, clock)), inside, seconds)


def idle_energy(ticks: Ticks, start: float, stop: float) -> SpanEnergy:
    """Return the energy between the first and the last tick in a span without work.

    Raises:
        TicksError: The span has fewer than three ticks.
    """
    inside = (ticks.times >= start) & (ticks.times <= stop)
    times, joules = ticks.times[inside], ticks.joules[inside]
    if len(times) < FEWEST_TICKS:
        raise TicksError(
            f"{len(times)} ticks of the energy counter in {stop - start:.1f} s without work are "
            f"too few: at least {FEWEST_TICKS} are needed"
        )
    error = _end_errors(times, joules, times[0], times[-1])
    seconds = float(times[-1] - times[0])
    return SpanEnergy(float(joules[-1] - joules[0]), error, len(times), seconds)


def _end_errors(
    times: NDArray[np.float64], joules: NDArray[np.float64], start: float, stop: float
) -> float:
    """Return half of the 95 % interval of the error of interpolation at two moments. Unit: J."""
    residuals = _residuals(times, joules)
    if len(residuals) < _FEWEST_RESIDUALS:
        # The counter's value is between those of the two ticks around a moment.
        return float(np.hypot(_step_at(times, joules, start), _step_at(times, joules, stop)) / 2)
    spread = float(np.sqrt(np.mean(residuals**2)))
    usual = _quantile(len(residuals) // 2) * _RESIDUAL_TO_STAMP * spread
    # A change of power at an end of the span enters the residuals of the ticks around it, each over
    # twice the distance: the larger of the two is an upper bound of the error.
    at_start, at_stop = (max(usual, _local(times, residuals, end)) for end in (start, stop))
    return float(np.hypot(at_start, at_stop))


def _residuals(times: NDArray[np.float64], joules: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the deviation of each inner tick from the line through its neighbours. Unit: J."""
    if len(times) < 3:
        return np.zeros(0)
    weights = (times[1:-1] - times[:-2]) / (times[2:] - times[:-2])
    return joules[1:-1] - joules[:-2] - weights * (joules[2:] - joules[:-2])


def _local(times: NDArray[np.float64], residuals: NDArray[np.float64], moment: float) -> float:
    """Return the larger residual of the two ticks around a moment; 0 without any. Unit: J."""
    after = int(np.searchsorted(times, moment, side="right"))
    # The residual of tick k has index k - 1.
    around = residuals[max(0, after - 2) : max(0, after)]
    return float(np.max(np.abs(around), initial=0.0))


def _step_at(times: NDArray[np.float64], joules: NDArray[np.float64], moment: float) -> float:
    """Return the difference of the ticks before and after a moment. Unit: J."""
    after = min(max(int(np.searchsorted(times, moment, side="right")), 1), len(times) - 1)
    return float(joules[after] - joules[after - 1])


def _quantile(freedom: int) -> float:
    """Return Student's two-sided 95 % quantile, to two terms of its expansion in 1/freedom."""
    z = NormalDist().inv_cdf(0.5 + COVERAGE / 2)
    return z + (z**3 + z) / (4 * max(freedom, 1))
