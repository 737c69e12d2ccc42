"""State of the device around and between the timed steps, which may explain a time.

Throttling is read after each timed step, temperature and clock before the first and after the last.
"""

from collections import defaultdict

from bench.devices import Device, Unavailable

# Name of the readings of throttling: the number of reasons, and each reason as a part.
_THROTTLE = "throttle_reasons"


class Telemetry:
    """Readings of temperature, clock and throttling, in order."""

    def __init__(self, device: Device) -> None:
        self._readings = {
            "temperature_c": device.temperature_c,
            "clock_mhz": device.clock_mhz,
        }
        self._device = device
        self._values: defaultdict[str, list[float]] = defaultdict(list)
        self._throttled: list[frozenset[str]] = []

    def read(self) -> None:
        """Read temperature and clock, if the device has them."""
        for name, reading in self._readings.items():
            try:
                value = reading()
            except Unavailable:
                continue
            self._values[name].append(value)

    def read_throttling(self) -> None:
        """Read the reasons for throttling, if the device reports them."""
        try:
            self._throttled.append(self._device.throttle_reasons())
        except Unavailable:
            return

    def throttling(self) -> str:
        """Return a flag for the times measured meanwhile; empty if there was no throttling."""
        reasons = frozenset[str]().union(*self._throttled)
        return f"throttled: {', '.join(sorted(reasons))}" if reasons else ""

    def as_json(self) -> dict[str, list[float]]:
        """Return the readings as stored in a record; empty if the device has none.

        ``throttle_reasons`` is the number of reasons at each reading, and
        ``throttle_reasons.<reason>`` is 1 if that reason was among them, else 0.
        """
        throttled: dict[str, list[float]] = {}
        if self._throttled:
            throttled[_THROTTLE] = [float(len(reasons)) for reasons in self._throttled]
        for reason in sorted(frozenset[str]().union(*self._throttled)):
            readings = [float(reason in reasons) for reasons in self._throttled]
            throttled[f"{_THROTTLE}.{reason}"] = readings
        return dict(self._values) | throttled
