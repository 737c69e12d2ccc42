"""State of the device around and between the timed steps: it may explain a time, and is no result.

Throttling is read after each timed step, and temperature and clock before the first and after the
last.
"""

from collections import defaultdict

from bench.devices import Device, Unavailable

# Readings: the number of reasons for which the clock was held back, and each of them by itself.
_THROTTLE = "throttle_reasons"


class Telemetry:
    """Readings of temperature, clock and throttling, in the order in which they were taken."""

    def __init__(self, device: Device) -> None:
        self._readings = {
            "temperature_c": device.temperature_c,
            "clock_mhz": device.clock_mhz,
        }
        self._device = device
        self._values: defaultdict[str, list[float]] = defaultdict(list)
        self._throttled: list[frozenset[str]] = []

    def read(self) -> None:
        """Read what the device has of temperature and clock."""
        for name, reading in self._readings.items():
            try:
                value = reading()
            except Unavailable:
                continue
            self._values[name].append(value)

    def read_throttling(self) -> None:
        """Read for which reasons the clock is held back, if the device says so."""
        try:
            self._throttled.append(self._device.throttle_reasons())
        except Unavailable:
            return

    def throttling(self) -> str:
        """Return a flag for what was timed meanwhile; empty if nothing held the clock back."""
        reasons = frozenset[str]().union(*self._throttled)
        return f"throttled: {', '.join(sorted(reasons))}" if reasons else ""

    def as_json(self) -> dict[str, list[float]]:
        """Return the readings as a record holds them; empty where there is nothing to read.

        ``throttle_reasons`` is the number of reasons at each reading, and
        ``throttle_reasons.<reason>`` is 1 where that reason was among them.
        """
        throttled: dict[str, list[float]] = {}
        if self._throttled:
            throttled[_THROTTLE] = [float(len(reasons)) for reasons in self._throttled]
        for reason in sorted(frozenset[str]().union(*self._throttled)):
            readings = [float(reason in reasons) for reasons in self._throttled]
            throttled[f"{_THROTTLE}.{reason}"] = readings
        return dict(self._values) | throttled
