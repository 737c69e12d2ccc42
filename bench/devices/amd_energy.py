"""Energy counters of AMD devices, and of modules where only one of two dies reports energy.

On an MI250 or MI250X, the driver reports power and energy of the whole module at its primary die,
and zero at the other (Linux, amdgpu, ``aldebaran_get_gpu_metrics``). The energy of a single die is
therefore valid only while the other is idle; a case that runs on both counts the module once.
"""

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from bench.devices.device import EnergyReading, NotSupported, Unavailable, hashed
from refsys.costs.devices import candidates

# Above this activity, a die is busy rather than idle with an occasional kernel.
_IDLE_PCT = 5.0
_SIBLING_CHECK_S = 0.5
PCI_DEVICES = Path("/sys/bus/pci/devices")


class Die(NamedTuple):
    """Die as AMD SMI lists it.

    Attributes:
        handle: Handle of the library.
        bdf: PCI address.
        uuid: Identity of the die; None if the driver has none.
        serial: Serial number of the board; None if the driver has none.
        reports: Whether its energy counter is nonzero.
    """

    handle: Any
    bdf: str
    uuid: str | None
    serial: str | None
    reports: bool


class Module(NamedTuple):
    """Module of two dies.

    Attributes:
        reporting: Die that reports the energy of both.
        silent: Die that reports none.
    """

    reporting: Die
    silent: Die

    def other(self, bdf: str) -> Die:
        """Return the die that is not at address `bdf`."""
        return self.silent if self.reporting.bdf == bdf else self.reporting

    def identity(self) -> str | None:
        """Return a hash that identifies the module's counter across machines."""
        dies = sorted(str(die.uuid or die.serial or die.bdf) for die in self)
        return hashed(f"module of {' and '.join(dies)}")


def module_of(bdf: str, dies: Sequence[Die], addresses: Sequence[str]) -> Module | None:
    """Return the module of the die at a PCI address.

    Two dies are a module if one reports and the other is silent, and either they alone share the
    serial number of a board, or the silent one directly follows the reporting one by address.
    (Some drivers give each die its own serial number.)

    Args:
        bdf: Address of one die.
        dies: Dies visible to the process, in any order.
        addresses: Addresses of all dies of the machine, those hidden from the process included.

    Returns:
        The module; None if the other die is not visible.
    """
    boards: dict[str, list[Die]] = {}
    for die in dies:
        if die.serial:
            boards.setdefault(die.serial, []).append(die)
    same_board = [(board[0], board[1]) for board in boards.values() if len(board) == 2]
    pairs = [pair if pair[0].reports else (pair[1], pair[0]) for pair in same_board]
    paired = {die.bdf for pair in pairs for die in pair}
    alone = {die.bdf: die for die in dies if die.bdf not in paired}
    pairs += [
        (alone[first], alone[second])
        for first, second in pairwise(sorted(addresses))
        if first in alone and second in alone
    ]
    for first, second in pairs:
        if bdf in {first.bdf, second.bdf} and first.reports and not second.reports:
            return Module(first, second)
    return None


def addresses_like(bdf: str) -> list[str]:
    """Return the PCI addresses of all devices of this machine that are of the same model.

    A container may see fewer devices than the machine has.

    Args:
        bdf: Address of a device. If the machine does not list it, it alone is returned.
    """
    kinds = {}
    for folder in PCI_DEVICES.glob("*"):
        with suppress(OSError):
            kinds[folder.name] = [
                (folder / part).read_text(encoding="utf-8").strip() for part in ("vendor", "device")
            ]
    return [address for address, kind in kinds.items() if kind == kinds.get(bdf)] or [bdf]


class EnergyCounter:
    """Energy counter of a device, read at the die that reports it."""

    def __init__(
        self,
        fields: Callable[..., list[Any]],
        ask: Callable[..., Any],
        handle: Any,
        name: str,
        case_bdfs: Collection[str],
    ) -> None:
        """Find the module to which the device belongs, if it is a die of one.

        Args:
            fields: Function that queries fields, `AmdDevice._fields`.
            ask: Function that calls the library by name; raises `Unavailable`.
            handle: Handle of the device.
            name: Name of the device, by which the table of peaks knows dies of modules.
            case_bdfs: PCI addresses of all devices that the case runs on.
        """
        self._fields, self._ask, self._handle = fields, ask, handle
        self._case_bdfs = {bdf.casefold() for bdf in case_bdfs}
        self._checked_s = -math.inf
        self._is_die = any(entry.dies == 2 for entry in candidates(name))
        self._bdf = ""
        self.module = self._find_module() if self._is_die else None

    def _find_module(self) -> Module | None:
        try:
            die = self._die(self._handle)
            self._bdf = die.bdf
            kind = self._kind(self._handle)
            handles = self._ask("amdsmi_get_processor_handles")
            dies = [self._die(other) for other in handles if self._kind(other) == kind]
            addresses = {die.bdf for die in dies} | set(addresses_like(die.bdf))
            return module_of(die.bdf, dies, sorted(addresses))
        except Unavailable:
            return None

    def _kind(self, handle: Any) -> list[Any]:
        return self._fields("amdsmi_get_gpu_asic_info", "market_name", "device_id", of=handle)

    def _die(self, handle: Any) -> Die:
        uuid = serial = ticks = None
        with suppress(Unavailable):
            uuid = self._ask("amdsmi_get_gpu_device_uuid", handle)
        with suppress(Unavailable):
            (serial,) = self._fields("amdsmi_get_gpu_board_info", "product_serial", of=handle)
        with suppress(Unavailable):
            ticks = self._count(handle)[0]
        bdf = self._ask("amdsmi_get_gpu_device_bdf", handle)
        return Die(handle, bdf, uuid, serial, bool(ticks))

    def read(self) -> EnergyReading:
        """Read the counter: accumulator times resolution in microjoules, time in nanoseconds.

        Raises:
            NotSupported: There is no counter, or it would include more than the case.
            Unavailable: See `AmdDevice`.
        """
        ticks, resolution, nanoseconds = self._count(self._counted_at())
        if not ticks or not resolution:
            raise NotSupported("the energy accumulator is absent or zero")
        seconds = None if not nanoseconds else nanoseconds * 1e-9
        return EnergyReading(float(ticks) * float(resolution) * 1e-6, seconds)

    def _count(self, handle: Any) -> tuple[int | None, float | None, int | None]:
        """Return accumulator, resolution (µJ) and time (ns) of an energy counter."""
        ticks, older, resolution, nanoseconds = self._fields(
            "amdsmi_get_energy_count",
            *("energy_accumulator", "power", "counter_resolution", "timestamp"),
            of=handle,
        )
        return older if ticks is None else ticks, resolution, nanoseconds

    def _counted_at(self) -> Any:
        """Return the handle of the die that reports this die's energy; see `read`."""
        if not self._is_die:
            return self._handle
        if self.module is None:
            raise NotSupported(
                "one die of a module of two reports the energy of both, and the other die of this "
                "module is not visible to the process",
                "let the process see both dies of the module",
            )
        sibling = self.module.other(self._bdf)
        if sibling.bdf.casefold() not in self._case_bdfs:
            if sibling == self.module.reporting:
                raise NotSupported(
                    f"die {self._bdf} has no energy counter: die {sibling.bdf} reports that of the "
                    "module, which counts both",
                    f"run the case on die {sibling.bdf}, or on both dies",
                )
            self._check_idle(sibling)
        return self.module.reporting.handle

    def _check_idle(self, die: Die) -> None:
        """Refuse a module's energy for one die while the other, outside the case, is busy.

        The other die is checked at most twice a second; the counter is polled much more often.
        """
        if perf_counter() - self._checked_s < _SIBLING_CHECK_S:
            return
        outside = f"the energy counter counts both dies of the module, and die {die.bdf}"
        unlock = f"leave die {die.bdf} idle, or run the case on both dies"
        (busy,) = self._fields("amdsmi_get_gpu_activity", "gfx_activity", of=die.handle)
        if busy is None:
            raise NotSupported(f"{outside}, outside the case, may be busy", unlock)
        if busy > _IDLE_PCT:
            raise NotSupported(f"{outside}, outside the case, is {busy:.0f} % busy", unlock)
        self._checked_s = perf_counter()
