"""Devices and links by name, from the manufacturers' documents (``devices.toml``).

Nothing is guessed: a device or dtype that is not listed has no rate, and no utilization.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from refsys.errors import ArgumentError

TABLE = Path(__file__).with_name("devices.toml")

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
    """Entry of the table; the head of ``devices.toml`` explains the fields.

    Attributes:
        short: Name on the command line; empty if it has none.
        flops: Peak rate of dense matrix products by dtype. Unit: FLOP/s.
        memory_bytes: Device memory as sold.
        power_w: Limit of the board's or module's power, a die's share of it. Unit: W.
        idle_w: Power without work; None if no document states it. Unit: W.
        link: Name of the link between devices of a node; empty if it is not listed.
        network: Name of a usual network between nodes; empty if there is none.
    """

    name: str
    maker: Literal["nvidia", "amd"]
    source: str
    bytes_s: float
    flops: dict[str, float]
    short: str = ""
    aliases: tuple[str, ...] = field(default=())
    units: int | None = None
    clock_hz: float | None = None
    exponentials: int | None = None
    memory_bytes: float | None = None
    power_w: float | None = None
    idle_w: float | None = None
    link: str = ""
    network: str = ""
    energy_scope: Literal["device", "module"] = "device"
    dies: int = 1

    def rates(self) -> Rates | None:
        """Return the rates other than matrix products; None if a figure is missing."""
        if self.units is None or self.clock_hz is None or self.exponentials is None:
            return None
        clocks_s = self.units * self.clock_hz
        return Rates(self.bytes_s, clocks_s * self.exponentials, clocks_s * _ISSUED[self.maker])


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """Connection of devices; the head of the links in ``devices.toml`` explains the fields.

    Attributes:
        bytes_s: Bandwidth of one device in one direction. Unit: B/s.
        latency_s: Time of a message beside its bytes. Unit: s.
        latency: Document of the latency; empty where it is an assumption.
        devices: Devices of a node that it connects; None for a network.
        peers: Devices that the bandwidth is divided among; None behind a switch.
    """

    name: str
    source: str
    bytes_s: float
    latency_s: float
    latency: str = ""
    devices: int | None = None
    peers: int | None = None


@cache
def _entries() -> Mapping[str, list[dict[str, Any]]]:
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


@cache
def table() -> tuple[ListedDevice, ...]:
    """Return all devices in the order of the file."""
    return tuple(
        ListedDevice(**{**entry, "aliases": tuple(entry.get("aliases", ()))})
        for entry in _entries()["device"]
    )


@cache
def links() -> dict[str, Link]:
    """Return all links by name, in the order of the file."""
    return {entry["name"]: Link(**entry) for entry in _entries()["link"]}


def short_names() -> tuple[str, ...]:
    """Return the devices' names on the command line, in the order of the file."""
    return tuple(entry.short for entry in table() if entry.short)


def named_device(name: str) -> ListedDevice:
    """Return the device of a name on the command line, such as ``h200``, or of its full name.

    Raises:
        ArgumentError: none has that name.
    """
    entry = next((entry for entry in table() if entry.short == name.casefold()), None)
    entry = entry or listed(name)
    if entry is None:
        raise ArgumentError(f"device {name!r} is not listed; take {', '.join(short_names())}")
    return entry


def named_link(name: str) -> Link:
    """Return the link of a name, such as ``nvlink-4``.

    Raises:
        ArgumentError: none has that name.
    """
    if name not in links():
        raise ArgumentError(f"link {name!r} is not listed; take one of {', '.join(links())}")
    return links()[name]


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
