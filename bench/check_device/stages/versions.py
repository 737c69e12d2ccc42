"""Stage ``versions``: device, driver, libraries, clocks and temperature before any work."""

from collections.abc import Callable
from typing import Any

from bench.check_device.check import Check
from bench.devices import Unavailable
from bench.records import provenance


def run(check: Check) -> dict[str, Any]:
    """Return software, device, and what its sensors say; a sensor that is missing says why."""
    device = check.device
    readings: dict[str, Callable[[], Any]] = {
        "temperature_c": device.temperature_c,
        "clock_mhz": device.clock_mhz,
        "used_bytes": device.used_bytes,
        "energy_j": device.energy_j,
        "throttle_reasons": lambda: sorted(device.throttle_reasons()),
    }
    description = device.describe().as_json()
    check.say(f"versions {description['name']}, driver {description['driver'] or 'unknown'}")
    return {
        "software": provenance.software(),
        "devices": check.devices,
        "device": description,
        "readings": {name: _reading(read) for name, read in readings.items()},
    }


def _reading(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Unavailable as error:
        return str(error)
