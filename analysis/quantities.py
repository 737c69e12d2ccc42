"""Quantities of a figure's axis, and number formats for display."""

from collections.abc import Iterable
from dataclasses import dataclass

# (factor, name) of the units of each kind, largest first.
_UNITS = {
    "bytes": ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")),
    "seconds": ((1, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "flops": ((1e15, "PFLOP/s"), (1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s")),
    "bandwidth": ((1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s"), (1, "B/s")),
    "rate": ((1e12, "T/s"), (1e9, "G/s"), (1e6, "M/s"), (1, "/s")),
    "joules": ((1e3, "kJ"), (1, "J"), (1e-3, "mJ")),
    "watts": ((1, "W"),),
    "share": ((0.01, "%"),),
    "percent": ((1, "%"),),
    "ratio": ((1, "×"),),
}


@dataclass(frozen=True, slots=True)
class Unit:
    """Unit: factor by which values are divided, and name."""

    factor: float
    name: str


@dataclass(frozen=True, slots=True)
class Quantity:
    """Quantity of an axis.

    Attributes:
        name: File name of the figures.
        metrics: Candidate metrics; the first that a series has is plotted.
        kind: Kind of unit, a key of the unit table.
        label: Label for axes and sentences.
        logarithmic: Whether the axis is logarithmic; otherwise it begins at zero.
        fitted: Whether power laws are fitted.
        of_device: Whether it is of the device's memory, so that programs of the host are apart.
    """

    name: str
    metrics: tuple[str, ...]
    kind: str
    label: str
    logarithmic: bool = True
    fitted: bool = True
    of_device: bool = False


def unit_of(kind: str, values: Iterable[float]) -> Unit:
    """Return the largest unit in which the geometric middle of the range is 1 or more."""
    positive = [value for value in values if value > 0]
    units = _UNITS[kind]
    if not positive:
        return Unit(*units[-1])
    middle = (min(positive) * max(positive)) ** 0.5
    return Unit(*next((unit for unit in units if unit[0] <= middle), units[-1]))


def format_value(value: float, kind: str) -> str:
    """Return a value with a suitable unit, with at least three digits."""
    unit = unit_of(kind, [value])
    scaled = value / unit.factor
    return f"{scaled:,.0f} {unit.name}" if abs(scaled) >= 1000 else f"{scaled:.3g} {unit.name}"


def format_ratio(ratio: float) -> str:
    """Return a ratio as text: ``1.25 times``, ``34.2 times``, ``1,200 times``."""
    digits = 2 if ratio < 10 else 1 if ratio < 100 else 0
    return f"{ratio:,.{digits}f} times"


def format_percent(share: float) -> str:
    """Return a share as text: ``61 %``, ``0.4 %``."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 9.5 or value == 0 else f"{value:.1g} %"


def format_size(tokens: float) -> str:
    """Return a size as text, ``N = 96``, with non-breaking spaces."""
    return f"N\u00a0=\u00a0{tokens:.0f}"
