"""Peak rates of devices by name, from the manufacturers' documents (``peaks.toml``).

Nothing is guessed: a device or dtype that is not listed has no utilization.
"""

import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

TABLE = Path(__file__).with_name("peaks.toml")

# Threads for which a unit issues an instruction in each clock: four schedulers of 32 threads, or
# four SIMDs of 16.
_ISSUED = {"nvidia": 128, "amd": 64}


class Rates(NamedTuple):
    """Peak rates of a device other than those of matrix products.

    Attributes:
        bytes_s: Bandwidth of device memory. Unit: B/s.
        exponentials_s: Exponentials per second.
        instructions_s: Instructions of single threads per second.
    """

    bytes_s: float
    exponentials_s: float
    instructions_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedDevice:
    """Entry of the table; the head of ``peaks.toml`` explains the fields.

    Attributes:
        flops: Peak rate of dense matrix products by dtype. Unit: FLOP/s.
    """

    name: str
    maker: Literal["nvidia", "amd"]
    source: str
    bytes_s: float
    flops: dict[str, float]
    aliases: tuple[str, ...] = field(default=())
    units: int | None = None
    clock_hz: float | None = None
    exponentials: int | None = None
    energy_scope: Literal["device", "module"] = "device"
    dies: int = 1

    def rates(self) -> Rates | None:
        """Return the rates other than matrix products; None if a figure is missing."""
        if self.units is None or self.clock_hz is None or self.exponentials is None:
            return None
        clocks_s = self.units * self.clock_hz
        return Rates(self.bytes_s, clocks_s * self.exponentials, clocks_s * _ISSUED[self.maker])


@cache
def table() -> tuple[ListedDevice, ...]:
    """Return all entries in the order of the file."""
    entries = tomllib.loads(TABLE.read_text(encoding="utf-8"))["device"]
    return tuple(
        ListedDevice(**{**entry, "aliases": tuple(entry.get("aliases", ()))}) for entry in entries
    )


def candidates(name: str) -> list[ListedDevice]:
    """Return the entries that match a name, ignoring case.

    A name that a driver uses for several devices has several entries.
    """
    folded = name.casefold()
    return [
        entry
        for entry in table()
        if folded in {alias.casefold() for alias in (entry.name, *entry.aliases)}
    ]


def listed(name: str, units: int | None = None) -> ListedDevice | None:
    """Return the entry of a device.

    Args:
        name: Name by the driver or torch; prefixes and similar names do not match.
        units: Multiprocessors or compute units, which distinguish devices of the same name.

    Returns:
        The entry; None if no entry matches, or several do.
    """
    entries = candidates(name)
    if len(entries) > 1:
        entries = [entry for entry in entries if entry.units == units]
    return entries[0] if len(entries) == 1 else None


def listed_peak(name: str, dtype: str, units: int | None = None) -> float | None:
    """Return the peak rate of a device in a dtype, or None; see `listed`. Unit: FLOP/s."""
    entry = listed(name, units)
    return entry.flops.get(dtype) if entry else None


def listed_rates(name: str, units: int | None = None) -> Rates | None:
    """Return the rates of a device other than matrix products, or None; see `listed`."""
    entry = listed(name, units)
    return entry.rates() if entry else None
