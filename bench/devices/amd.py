"""AMD devices, through AMD SMI (module amdsmi, which comes with ROCm)."""

import contextlib
import hashlib
import io
from collections.abc import Callable
from typing import Any

import torch

from bench.devices.device import (
    CudaStopwatch,
    Description,
    Device,
    LibraryMissing,
    NoPermission,
    NotSupported,
    Stopwatch,
    Unavailable,
)
from bench.devices.peaks import peak_bfloat16

# Codes of AMDSMI_STATUS_*; every other one means that the quantity cannot be had.
_ERRORS: dict[int, type[Unavailable]] = {
    4: LibraryMissing,  # FAIL_LOAD_MODULE
    5: LibraryMissing,  # FAIL_LOAD_SYMBOL
    10: NoPermission,  # NO_PERM
    32: LibraryMissing,  # NOT_INIT
    34: LibraryMissing,  # DRIVER_NOT_LOADED
    51: LibraryMissing,  # NO_DRV
}
_UNKNOWN = frozenset({"", "N/A", "None"})
_UNLOCK: dict[type[Unavailable], str] = {
    LibraryMissing: "install ROCm with its amdsmi Python package",
    NoPermission: "join the groups 'render' and 'video'",
}


def load_amdsmi() -> Any:
    """The initialized amdsmi module.

    Raises:
        LibraryMissing: it is not installed, or finds no ROCm.
    """
    try:
        # Without ROCm the import prints, and raises KeyError or OSError as well as ImportError.
        with contextlib.redirect_stdout(io.StringIO()):
            import amdsmi
    except Exception as error:
        reason = f"amdsmi cannot be imported ({type(error).__name__}: {error})"
        raise LibraryMissing(reason, _UNLOCK[LibraryMissing]) from None
    _call(amdsmi, amdsmi.amdsmi_init)
    return amdsmi


def _call(smi: Any, function: Callable[..., Any], *args: Any) -> Any:
    """Calls an AMD SMI function; its errors become ours by the table."""
    try:
        return function(*args)
    except smi.AmdSmiException as error:
        kind = _ERRORS.get(abs(int(getattr(error, "err_code", 0))), NotSupported)
        reason = " ".join(str(error).split())
        raise kind(f"{function.__name__}: {reason}", _UNLOCK.get(kind, "")) from None


class AmdDevice(Device):
    """One AMD GPU, or one die of it, as torch numbers it."""

    def __init__(self, index: int = 0, bdf: str | None = None, smi: Any = None) -> None:
        """Finds the device.

        Args:
            index: torch's number of it.
            bdf: Its PCI address, without which AMD SMI's own order is taken.
            smi: The amdsmi module, or a stand-in; loaded if None. What needs it is unavailable if
                it cannot be loaded.
        """
        self.torch_device = torch.device("cuda", index)
        self._smi = smi
        self._why_not: Unavailable | None = None
        self._handle: Any = None
        try:
            self._smi = smi or load_amdsmi()
            if bdf:
                self._handle = self._raw("amdsmi_get_processor_handle_from_bdf", bdf)
            else:
                handles = self._raw("amdsmi_get_processor_handles")
                if index >= len(handles):
                    raise NotSupported(f"AMD SMI lists {len(handles)} devices, not {index + 1}")
                self._handle = handles[index]
        except Unavailable as error:
            self._why_not = error

    def _raw(self, name: str, *args: Any) -> Any:
        function = getattr(self._smi, name, None)
        if function is None:
            raise LibraryMissing(f"this amdsmi has no {name}", _UNLOCK[LibraryMissing])
        return _call(self._smi, function, *args)

    def _query(self, name: str, *args: Any) -> Any:
        if self._why_not:
            raise self._why_not
        return self._raw(name, self._handle, *args)

    def _optional(self, name: str) -> dict[str, Any]:
        """What a query tells, without what AMD SMI calls "N/A" or leaves empty."""
        try:
            answer = self._query(name)
        except Unavailable:
            return {}
        fields = answer if isinstance(answer, dict) else {"value": answer}
        return {key: value for key, value in fields.items() if str(value) not in _UNKNOWN}

    def describe(self) -> Description:
        """See `Device`."""
        board = self._optional("amdsmi_get_gpu_asic_info")
        total = self._optional("amdsmi_get_gpu_vram_usage").get("vram_total")
        cap = self._optional("amdsmi_get_power_cap_info").get("power_cap")
        uuid = self._optional("amdsmi_get_gpu_device_uuid").get("value")
        identity = None if uuid is None else hashlib.sha256(str(uuid).encode()).hexdigest()[:16]
        return Description(
            vendor="amd",
            name=board.get("market_name") or "AMD GPU of unknown name",
            kind="cuda",
            memory_bytes=None if total is None else int(total) * 2**20,
            uuid_hash=identity,
            driver=self._optional("amdsmi_get_gpu_driver_info").get("driver_version"),
            vbios=self._optional("amdsmi_get_gpu_vbios_info").get("version"),
            # AMD SMI gives microwatts; versions before 6 gave watts.
            power_cap_w=None if cap is None else (cap / 1e6 if cap > 1e5 else float(cap)),
            partition=self._optional("amdsmi_get_gpu_compute_partition").get("value"),
            # The two dies of an MI250 share one counter, which its first die alone reports.
            energy_domain=board.get("asic_serial") or identity,
        )

    def stopwatch(self) -> Stopwatch:
        """See `Device`."""
        return CudaStopwatch()

    def synchronize(self) -> None:
        """See `Device`."""
        torch.cuda.synchronize(self.torch_device)

    def used_bytes(self) -> int:
        """See `Device`."""
        return int(self._query("amdsmi_get_gpu_vram_usage")["vram_used"]) * 2**20

    def energy_j(self) -> float:
        """See `Device`: accumulator times resolution, in microjoules."""
        count = self._query("amdsmi_get_energy_count")
        # The accumulator was called "power" before AMD SMI 6.2.1.
        ticks = count.get("energy_accumulator", count.get("power"))
        if not ticks:
            raise NotSupported("the energy accumulator is absent or zero (second die of a module?)")
        return float(ticks) * float(count["counter_resolution"]) * 1e-6

    def busy_pct(self) -> float:
        """See `Device`."""
        busy = self._query("amdsmi_get_gpu_activity").get("gfx_activity")
        if not isinstance(busy, int | float):
            raise NotSupported("AMD SMI gives no graphics activity")
        return float(busy)

    def peak_flops(self) -> float:
        """See `Device`."""
        peak = peak_bfloat16(self.describe().name)
        return super().peak_flops() if peak is None else peak
