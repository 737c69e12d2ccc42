"""Rates that a device was seen to reach, kept for the rooflines of later measurements.

``foldperf check-device`` measures them. A data sheet's peak says what no kernel can exceed; an
achieved rate says what a simple program comes to on this very device, under its power cap.
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
    """Achieved rates of one device; None is not measured.

    Attributes:
        bytes_s: Bytes read and written by a copy in device memory, a second.
        l2_bytes_s: The same of a copy that stays in the L2 cache.
        exponentials_s: Exponentials, a second.
        flops: Floating-point operations of a matrix product, a second, by dtype.
        measured_at: When, in ISO 8601.
        run_ids: Records that hold the measurements.
    """

    bytes_s: float | None = None
    l2_bytes_s: float | None = None
    exponentials_s: float | None = None
    flops: Mapping[str, float] = field(default_factory=dict)
    measured_at: str = ""
    run_ids: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self) | {"flops": dict(self.flops), "run_ids": list(self.run_ids)}


def keep_calibration(device: Description, calibration: Calibration) -> Path:
    """Keep the rates of a device in the cache folder, and return the file.

    Raises:
        HomeError: there is no cache folder.
        OSError: the file cannot be written.
    """
    path = _path(device)
    write_json(path, {"format": _FORMAT, "device": device.name, **calibration.as_json()})
    _read.cache_clear()
    return path


def known_calibration(device: Description) -> Calibration | None:
    """Return the rates that were measured on this very device; None if none were, or not whole."""
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
    """The file of a device, by its hashed identity; of its kind where that is not known."""
    name = device.uuid_hash or "".join(c if c.isalnum() else "-" for c in device.name)
    return home() / "calibration" / f"{name}.json"
