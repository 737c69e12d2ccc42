"""Achieved rates of a device, stored for the roofline bounds of later measurements.

``foldperf check-device`` measures them. A data sheet's peak is a limit that no kernel can exceed;
an achieved rate is that of a simple program on this very device, under its power cap.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.devices.device import Description
from refsys.errors import HomeError
from refsys.files import parse_json, write_json
from refsys.home import home

_FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Achieved rates of one device; None if not measured.

    Attributes:
        bytes_s: Rate of a copy in device memory, reads and writes. Unit: B/s.
        l2_bytes_s: Rate of a copy within the L2 cache, reads and writes. Unit: B/s.
        exponentials_s: Exponentials per second.
        flops: Rate of matrix products by dtype. Unit: FLOP/s.
        measured_at: Time of the measurement, in ISO 8601.
        run_ids: Identifiers of the records of the measurements.
    """

    bytes_s: float | None = None
    l2_bytes_s: float | None = None
    exponentials_s: float | None = None
    flops: Mapping[str, float] = field(default_factory=dict)
    measured_at: str = ""
    run_ids: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self) | {"flops": dict(self.flops), "run_ids": list(self.run_ids)}


def save_calibration(device: Description, calibration: Calibration) -> Path:
    """Write the rates of a device to the cache folder, and return the file.

    Raises:
        HomeError: There is no cache folder.
        OSError: The file cannot be written.
    """
    path = _path(device)
    write_json(path, {"format": _FORMAT, "device": device.name, **calibration.as_json()})
    _read.cache_clear()
    return path


def load_calibration(device: Description) -> Calibration | None:
    """Return the rates measured on this device; None if there are none, or the file is damaged."""
    try:
        path = _path(device)
    except HomeError:
        return None
    return _read(path, device.name)


@functools.cache
def _read(path: Path, name: str) -> Calibration | None:
    try:
        table = parse_json(path.read_bytes())
        if table["format"] != _FORMAT or table["device"] != name:
            return None
        rates = {name: table[name] for name in ("bytes_s", "l2_bytes_s", "exponentials_s")}
        flops = {str(dtype): float(rate) for dtype, rate in table["flops"].items()}
        numbers = [rate for rate in (*rates.values(), *flops.values()) if rate is not None]
        if not all(isinstance(n, int | float) and 0 < n < math.inf for n in numbers):
            return None
        return Calibration(
            **rates,
            flops=flops,
            measured_at=str(table["measured_at"]),
            run_ids=tuple(map(str, table["run_ids"])),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _path(device: Description) -> Path:
    """Return the file of a device, named by its hashed identity or, without one, its name."""
    name = device.uuid_hash or "".join(c if c.isalnum() else "-" for c in device.name)
    return home() / "calibration" / f"{name}.json"
