"""Peak rates of devices by name, from the makers' documents (``peaks.toml``).

A device or dtype that is not listed has no utilization, rather than a guessed one.
"""

import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

TABLE = Path(__file__).with_name("peaks.toml")

# Threads that a unit issues an instruction for at each clock: four schedulers of 32 threads, or
# four SIMDs of 16.
_ISSUED = {"nvidia": 128, "amd": 64}


class Rates(NamedTuple):
    """Peak rates of a device beside matrix products.

    Attributes:
        bytes_s: Bytes of device memory, a second.
        exponentials_s: Exponentials, a second.
        instructions_s: Instructions of single threads, a second.
    """

    bytes_s: float
    exponentials_s: float
    instructions_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedDevice:
    """One entry of the table, which explains the fields.

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
        """Return the rates beside matrix products; None where a figure is missing."""
        if self.units is None or self.clock_hz is None or self.exponentials is None:
            return None
        clocks_s = self.units * self.clock_hz
        return Rates(self.bytes_s, clocks_s * self.exponentials, clocks_s * _ISSUED[self.maker])


@cache
def table() -> tuple[ListedDevice, ...]:
    """Return every entry, in the order of the file."""
    entries = tomllib.loads(TABLE.read_text(encoding="utf-8"))["device"]
    return tuple(
        ListedDevice(**{**entry, "aliases": tuple(entry.get("aliases", ()))}) for entry in entries
    )


def candidates(name: str) -> list[ListedDevice]:
    """Return the entries that a name can mean, capitals apart.

    A name that a driver gives to several devices has several.
    """
    folded = name.casefold()
    return [
        entry
        for entry in table()
        if folded in {known.casefold() for known in (entry.name, *entry.aliases)}
    ]


def listed(name: str, units: int | None = None) -> ListedDevice | None:
    """Return the entry of a device.

    Args:
        name: As the driver or torch gives it; a beginning or a similar name is another device.
        units: Multiprocessors or compute units, which tell devices of one name apart.

    Returns:
        The entry; None if there is none, or if several remain.
    """
    found = candidates(name)
    if len(found) > 1:
        found = [entry for entry in found if entry.units == units]
    return found[0] if len(found) == 1 else None


def listed_peak(name: str, dtype: str, units: int | None = None) -> float | None:
    """Return the peak rate of a device in a dtype, or None; see `listed`. Unit: FLOP/s."""
    entry = listed(name, units)
    return entry.flops.get(dtype) if entry else None


def listed_rates(name: str, units: int | None = None) -> Rates | None:
    """Return the other rates of a device, or None; see `listed`."""
    entry = listed(name, units)
    return entry.rates() if entry else None
