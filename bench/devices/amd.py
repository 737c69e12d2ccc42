"""AMD devices, through AMD SMI (module amdsmi, which comes with ROCm)."""

import contextlib
import io
from collections.abc import Callable
from typing import Any

from bench.devices.accelerator import Accelerator
from bench.devices.device import (
    Description,
    LibraryMissing,
    NoPermission,
    NotSupported,
    Unavailable,
    hashed,
)

# Codes of AMDSMI_STATUS_*; every other one means that the quantity cannot be had.
_ERRORS: dict[int, type[Unavailable]] = {
    4: LibraryMissing,  # FAIL_LOAD_MODULE
    5: LibraryMissing,  # FAIL_LOAD_SYMBOL
    10: NoPermission,  # NO_PERM
    32: LibraryMissing,  # NOT_INIT
    34: LibraryMissing,  # DRIVER_NOT_LOADED
    51: LibraryMissing,  # NO_DRV
}
_UNLOCK: dict[type[Unavailable], str] = {
    LibraryMissing: "install ROCm with its amdsmi Python package",
    NoPermission: "join the groups 'render' and 'video'",
}
# What AMD SMI says where it knows nothing.
_UNKNOWN = frozenset({"", "N/A", "None"})
# The compute partition of an undivided device; others (DPX, QPX, CPX) are parts of it, of which
# AMD SMI tells the whole device's memory, energy and activity.
_WHOLE = frozenset({None, "SPX"})


class AmdDevice(Accelerator):
    """One AMD GPU, or one die of it, as torch numbers it."""

    library_unlock = _UNLOCK[LibraryMissing]

    def __init__(self, index: int = 0, bdf: str | None = None, smi: Any = None) -> None:
        """Finds the device.

        Args:
            index: torch's number of it.
            bdf: Its PCI address, without which AMD SMI's own order is taken.
            smi: The amdsmi module, or a stand-in; loaded if None.
        """
        self._index = index
        self._bdf = bdf
        self._partition: str | None = None
        super().__init__(index, smi)
        self._partition = self._known("amdsmi_get_gpu_compute_partition")

    def _load(self) -> Any:
        try:
            # Without ROCm the import prints, and raises KeyError or OSError as well as ImportError.
            with contextlib.redirect_stdout(io.StringIO()):
                import amdsmi
        except Exception as error:
            reason = f"amdsmi cannot be imported ({type(error).__name__}: {error})"
            raise LibraryMissing(reason, self.library_unlock) from None
        self._library = amdsmi
        self._ask("amdsmi_init")
        return amdsmi

    def _find(self) -> Any:
        if self._bdf:
            return self._ask("amdsmi_get_processor_handle_from_bdf", self._bdf)
        handles = self._ask("amdsmi_get_processor_handles")
        if self._index >= len(handles):
            raise NotSupported(f"AMD SMI lists {len(handles)} devices, not {self._index + 1}")
        return handles[self._index]

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except self._library.AmdSmiException as error:
            kind = _ERRORS.get(abs(int(getattr(error, "err_code", 0))), NotSupported)
            reason = " ".join(str(error).split())
            raise kind(f"{function.__name__}: {reason}", _UNLOCK.get(kind, "")) from None

    def _known(self, query: str, field: str = "value") -> Any:
        """A field of what a query tells (the answer itself is ``value``), or None."""
        answer = self._optional(query)
        fields = answer if isinstance(answer, dict) else {"value": answer}
        value = fields.get(field)
        return None if str(value) in _UNKNOWN else value

    def _part(self) -> str:
        return "" if self._partition in _WHOLE else f"{self._partition} partition"

    def describe(self) -> Description:
        """See `Device`."""
        total = cap = None
        if not self._part():
            total = self._known("amdsmi_get_gpu_vram_usage", "vram_total")
            cap = self._known("amdsmi_get_power_cap_info", "power_cap")
        uuid = self._known("amdsmi_get_gpu_device_uuid")
        serial = self._known("amdsmi_get_gpu_asic_info", "asic_serial")
        identity = hashed(uuid)
        name = self._known("amdsmi_get_gpu_asic_info", "market_name")
        return Description(
            vendor="amd",
            name=name or "AMD GPU of unknown name",
            kind="cuda",
            memory_bytes=None if total is None else int(total) * 2**20,
            uuid_hash=identity,
            driver=self._known("amdsmi_get_gpu_driver_info", "driver_version"),
            vbios=self._known("amdsmi_get_gpu_vbios_info", "version"),
            # AMD SMI gives microwatts; versions before 6 gave watts.
            power_cap_w=None if cap is None else (cap / 1e6 if cap > 1e5 else float(cap)),
            partition=self._partition,
            # The two dies of an MI250 share one counter, which its first die alone reports.
            energy_domain=hashed(serial) or identity,
        )

    def used_bytes(self) -> int:
        """See `Device`."""
        self._need_whole("count of used memory")
        return int(self._query("amdsmi_get_gpu_vram_usage")["vram_used"]) * 2**20

    def energy_j(self) -> float:
        """See `Device`: accumulator times resolution, in microjoules."""
        self._need_whole("energy counter")
        count = self._query("amdsmi_get_energy_count")
        # The accumulator was called "power" before AMD SMI 6.2.1.
        ticks = count.get("energy_accumulator", count.get("power"))
        if not ticks:
            raise NotSupported("the energy accumulator is absent or zero (second die of a module?)")
        return float(ticks) * float(count["counter_resolution"]) * 1e-6

    def busy_pct(self) -> float:
        """See `Device`."""
        self._need_whole("busy counter")
        busy = self._query("amdsmi_get_gpu_activity").get("gfx_activity")
        if not isinstance(busy, int | float):
            raise NotSupported("AMD SMI gives no graphics activity")
        return float(busy)
