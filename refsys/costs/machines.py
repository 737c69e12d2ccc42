"""Rates of one device for the time and energy models: of the data sheet, or achieved on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from refsys.costs.achievable import BYTES, EXPONENTIALS, PRODUCTS
from refsys.costs.devices import ListedDevice


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Rates of a device; those that are not known are absent or None.

    Attributes:
        name: Name by the driver or torch.
        flops: Rate of matrix products by dtype. Unit: FLOP/s.
        bytes_s: Bandwidth of the memory. Unit: B/s.
        exponentials_s: Exponentials per second.
        achieved: Rates that were measured on the device: dtypes, ``bytes``, ``exponentials``.
        is_host: Whether the device is the processor itself: calls and work take turns, nothing is
            launched, and exponentials are part of an operator's work on the same units.
        memory_bytes: Memory as sold.
        power_w: Limit of its power. Unit: W.
        idle_w: Power without work. Unit: W.
        link: Name of the link between devices of a node; empty if not known.
        network: Name of the network between nodes; empty if not known.
    """

    name: str
    flops: Mapping[str, float] = field(default_factory=dict)
    bytes_s: float | None = None
    exponentials_s: float | None = None
    achieved: frozenset[str] = frozenset()
    is_host: bool = False
    memory_bytes: float | None = None
    power_w: float | None = None
    idle_w: float | None = None
    link: str = ""
    network: str = ""

    def rate(self, resource: str, dtype: str = "") -> float | None:
        """Return the rate of a resource, None if it is not known."""
        if resource == PRODUCTS:
            return self.flops.get(dtype)
        return {BYTES: self.bytes_s, EXPONENTIALS: self.exponentials_s}[resource]

    def is_achieved(self, resource: str, dtype: str = "") -> bool:
        """Return whether a rate was measured on the device."""
        return (dtype if resource == PRODUCTS else resource) in self.achieved

    def with_achieved(
        self,
        *,
        flops: Mapping[str, float],
        bytes_s: float | None = None,
        exponentials_s: float | None = None,
    ) -> "Machine":
        """Return the device with rates that were measured on it, in place of those listed."""
        measured = {BYTES: bytes_s, EXPONENTIALS: exponentials_s}
        names = {name for name, rate in measured.items() if rate is not None} | set(flops)
        return replace(
            self,
            flops={**self.flops, **flops},
            bytes_s=bytes_s or self.bytes_s,
            exponentials_s=exponentials_s or self.exponentials_s,
            achieved=self.achieved | names,
        )


def machine_of(entry: ListedDevice) -> Machine:
    """Return the rates of a listed device."""
    rates = entry.rates()
    return Machine(
        name=entry.name,
        flops=entry.flops,
        bytes_s=entry.bytes_s,
        exponentials_s=rates.exponentials_s if rates else None,
        memory_bytes=entry.memory_bytes,
        power_w=entry.power_w,
        idle_w=entry.idle_w,
        link=entry.link,
        network=entry.network,
    )
