"""The device's state around the timed steps: what may explain a time, not a result."""

from collections import defaultdict

from bench.devices import Device, Unavailable


class Telemetry:
    """Readings of temperature and clock, in the order in which they were taken."""

    def __init__(self, device: Device) -> None:
        self._readings = {
            "temperature_c": device.temperature_c,
            "clock_mhz": device.clock_mhz,
        }
        self._found: defaultdict[str, list[float]] = defaultdict(list)

    def read(self) -> None:
        """Takes what can be had."""
        for name, reading in self._readings.items():
            try:
                value = reading()
            except Unavailable:
                continue
            self._found[name].append(value)

    def as_json(self) -> dict[str, list[float]]:
        """As a record holds it; empty where there is nothing to read."""
        return dict(self._found)
