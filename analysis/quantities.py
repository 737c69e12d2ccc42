"""Quantities: what a figure's axis shows, and how its values are written for people."""

from collections.abc import Iterable
from dataclasses import dataclass

# Kind -> (factor, name) of its units, largest first.
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
    """What values are divided by, and what the quotient is called."""

    factor: float
    name: str


@dataclass(frozen=True, slots=True)
class Quantity:
    """What an axis shows.

    Attributes:
        name: File name of its figures.
        metrics: The first of them that a series has is drawn.
        kind: Of its units.
        label: What it is, for an axis and for sentences.
        logarithmic: Whether its axis is; else it begins at zero.
        fitted: Whether power laws are fitted to it.
    """

    name: str
    metrics: tuple[str, ...]
    kind: str
    label: str
    logarithmic: bool = True
    fitted: bool = True


def unit_of(kind: str, values: Iterable[float]) -> Unit:
    """The unit in which the geometric middle of the values' range is 1 or more."""
    positive = [value for value in values if value > 0]
    units = _UNITS[kind]
    if not positive:
        return Unit(*units[-1])
    middle = (min(positive) * max(positive)) ** 0.5
    return Unit(*next((unit for unit in units if unit[0] <= middle), units[-1]))


def written(value: float, kind: str) -> str:
    """A value with the unit that suits it, three digits at least."""
    unit = unit_of(kind, [value])
    shown = value / unit.factor
    return f"{shown:,.0f} {unit.name}" if abs(shown) >= 1000 else f"{shown:.3g} {unit.name}"


def times(ratio: float) -> str:
    """A ratio in words: ``1.25 times``, ``34.2 times``, ``1,200 times``."""
    digits = 2 if ratio < 10 else 1 if ratio < 100 else 0
    return f"{ratio:,.{digits}f} times"


def percent(share: float) -> str:
    """A share in words: ``61 %``, ``0.4 %``."""
    shown = 100 * share
    return f"{shown:.0f} %" if shown >= 9.5 or shown == 0 else f"{shown:.1g} %"


def at_size(tokens: float) -> str:
    """``N = 96``, which no line breaks apart."""
    return f"N\u00a0=\u00a0{tokens:.0f}"
