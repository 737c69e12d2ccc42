"""NVIDIA devices, through NVML (package nvidia-ml-py, module pynvml).

If a card is in MIG mode, torch sees one slice of it. Memory is then that of the slice, which has a
handle of its own; temperature, clock and throttling are those of the chip. Energy, power,
utilization and activity exist for the whole card only, so a slice has none.

On a Grace Hopper module, NVML's energy counter covers the GPU without the processor.
"""

from collections.abc import Callable, Mapping
from typing import Any

from bench.devices.accelerator import Accelerator, TorchProperties
from bench.devices.device import (
    Description,
    DeviceLost,
    LibraryMissing,
    NoPermission,
    NotSupported,
    Unavailable,
    hashed,
)
from bench.devices.gpm import PerformanceMonitor
from bench.devices.mig import CARD, SLICE, Located, locate, text

_ERRORS: dict[str, type[Unavailable]] = {
    "NVMLError_LibraryNotFound": LibraryMissing,
    "NVMLError_FunctionNotFound": LibraryMissing,
    "NVMLError_DriverNotLoaded": LibraryMissing,
    "NVMLError_LibRmVersionMismatch": LibraryMissing,
    "NVMLError_NoPermission": NoPermission,
    "NVMLError_NotSupported": NotSupported,
    "NVMLError_GpuIsLost": DeviceLost,
    "NVMLError_ResetRequired": DeviceLost,
}
BINDING = "pip install 'foldperf[nvidia]'"
_UNLOCK: dict[type[Unavailable], str] = {
    LibraryMissing: f"install or update the NVIDIA driver, and {BINDING}",
    NoPermission: "ask the administrator for access to the counter",
    DeviceLost: "reset the device",
}
# Reasons for which a clock is below its maximum, as bits: throttling, with the names used here, and
# settings (an idle device, a set clock or display, a boost group that follows its slowest member).
THROTTLING: dict[str, tuple[int, str]] = {
    "nvmlClocksEventReasonSwPowerCap": (0x4, "sw_power_cap"),
    "nvmlClocksEventReasonHwSlowdown": (0x8, "hw_slowdown"),
    "nvmlClocksEventReasonSwThermalSlowdown": (0x20, "sw_thermal_slowdown"),
    "nvmlClocksEventReasonHwThermalSlowdown": (0x40, "hw_thermal_slowdown"),
    "nvmlClocksEventReasonHwPowerBrakeSlowdown": (0x80, "hw_power_brake"),
    "nvmlClocksThrottleReasonBoardLimit": (0x200, "board_limit"),
    "nvmlClocksThrottleReasonReliability": (0x400, "reliability_voltage"),
}
SETTINGS: dict[str, int] = {
    "nvmlClocksEventReasonGpuIdle": 0x1,
    "nvmlClocksEventReasonApplicationsClocksSetting": 0x2,
    "nvmlClocksEventReasonSyncBoost": 0x10,
    "nvmlClocksEventReasonDisplayClockSetting": 0x100,
}


class NvidiaDevice(Accelerator):
    """NVIDIA GPU, or one MIG slice, as torch numbers it."""

    library_unlock = _UNLOCK[LibraryMissing]

    def __init__(
        self,
        index: int = 0,
        uuid: str | None = None,
        nvml: Any = None,
        properties: TorchProperties | None = None,
    ) -> None:
        """Look the device up.

        Args:
            index: torch's number of the device.
            uuid: UUID with or without ``GPU-`` or ``MIG-``. Without it, `index` is taken in NVML's
                own order, which may differ from torch's.
            nvml: The pynvml module, or a stand-in; loaded if None.
            properties: Properties that torch knows.
        """
        self._index = index
        self._uuid = uuid or (properties.uuid if properties else None)
        self._located = Located(None, None, bool(self._uuid and self._uuid.startswith(SLICE)))
        self._monitor: PerformanceMonitor | None = None
        super().__init__(index, nvml, properties)

    def _load(self) -> Any:
        try:
            import pynvml
        except ImportError:
            reason = "the Python binding of NVML is not installed"
            raise LibraryMissing(reason, BINDING) from None
        self._library = pynvml
        self._ask("nvmlInit")
        return pynvml

    def _find(self) -> Any:
        self._located = locate(self._ask, self._index, self._uuid)
        return self._located.handle

    def _part(self) -> str:
        return "MIG slice" if self._located.is_slice else ""

    def _query(self, name: str, *args: Any) -> Any:
        if self._handle is None and self._located.error:
            raise self._located.error
        return super()._query(name, *args)

    def _query_chip(self, name: str, *args: Any) -> Any:
        """Call a query for the whole card, which other slices may share."""
        if not self._located.is_slice:
            return self._query(name, *args)
        if self._located.card is None and self._located.error:
            raise self._located.error
        return self._ask(name, self._located.card, *args)

    def _query_chip_by(self, names: tuple[str, str], *args: Any) -> Any:
        """Call a query for the whole card by its first name or, if absent, by its second."""
        try:
            return self._query_chip(names[0], *args)
        except (LibraryMissing, NotSupported) as error:
            if self._unavailable:
                raise
            try:
                return self._query_chip(names[1], *args)
            except Unavailable:
                raise error from None

    def _optional_chip(self, name: str) -> Any:
        try:
            return self._query_chip(name)
        except Unavailable:
            return None

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except self._library.NVMLError as error:
            kind = _ERRORS.get(type(error).__name__, NotSupported)
            raise kind(f"{function.__name__}: {error}", _UNLOCK.get(kind, "")) from None

    def describe(self) -> Description:
        """See `Device`."""
        is_slice = self._located.is_slice
        ecc = self._optional_chip("nvmlDeviceGetEccMode")
        power = None if is_slice else self._optional("nvmlDeviceGetEnforcedPowerLimit")
        identity = hashed(text(self._optional("nvmlDeviceGetUUID")) or self._full_uuid())
        return Description(
            vendor="nvidia",
            name=self._name(),
            kind="cuda",
            memory_bytes=self._memory_bytes(),
            uuid_hash=identity,
            driver=self._driver(),
            vbios=text(self._optional_chip("nvmlDeviceGetVbiosVersion")),
            power_cap_w=None if power is None else power / 1e3,
            partition=self._partition(),
            ecc=None if ecc is None else bool(ecc[0]),
            energy_domain=None if is_slice else identity,
            energy_scope=None if is_slice else "device",
        )

    def _full_uuid(self) -> str | None:
        """Return the UUID with its prefix, as in NVML; torch omits a card's ``GPU-``."""
        if self._uuid and not self._uuid.startswith((CARD, SLICE)):
            return CARD + self._uuid
        return self._uuid

    def _memory_bytes(self) -> int | None:
        memory = self._optional("nvmlDeviceGetMemoryInfo")
        if memory is not None:
            return int(memory.total)
        return self._properties.memory_bytes if self._properties else None

    def _partition(self) -> str | None:
        if self._located.is_slice:
            return "mig"
        return None if self._optional("nvmlDeviceGetMigMode") is None else "whole"

    def _name(self) -> str:
        name = text(self._optional("nvmlDeviceGetName"))
        if name is None and self._located.is_slice:
            name = text(self._optional_chip("nvmlDeviceGetName"))
        name = name or (self._properties.name if self._properties else "")
        name = name or "NVIDIA GPU of unknown name"
        # NVML names a slice with its profile, as in "MIG 1g.10gb"; mark a name that has none.
        return f"{name} MIG" if self._located.is_slice and "MIG" not in name else name

    def _driver(self) -> str | None:
        try:
            return text(self._ask("nvmlSystemGetDriverVersion"))
        except Unavailable:
            return None

    def used_bytes(self) -> int:
        """See `Device`."""
        return int(self._query("nvmlDeviceGetMemoryInfo").used)

    def energy_j(self) -> float:
        """See `Device`; the driver counts millijoules since it was loaded."""
        self._need_whole("energy counter")
        return float(self._query("nvmlDeviceGetTotalEnergyConsumption")) / 1e3

    def busy_pct(self) -> float:
        """See `Device`; NVML's sample period is between 1/6 s and 1 s."""
        self._need_whole("busy counter")
        return float(self._query("nvmlDeviceGetUtilizationRates").gpu)

    def activity_pct(self) -> Mapping[str, float]:
        """See `Device`; means since the previous call, on Hopper and newer devices."""
        self._need_whole("performance monitor")
        if self._monitor is None:
            self._monitor = PerformanceMonitor(self._library, self._ask, self._handle)
        return self._monitor.means_pct()

    def throttle_reasons(self) -> frozenset[str]:
        """See `Device`; a reason without a name is named by its bit."""
        bits = int(
            self._query_chip_by(
                (
                    "nvmlDeviceGetCurrentClocksEventReasons",
                    "nvmlDeviceGetCurrentClocksThrottleReasons",
                )
            )
        )
        for bit in SETTINGS.values():
            bits &= ~bit
        reasons = set()
        for bit, name in THROTTLING.values():
            if bits & bit:
                reasons.add(name)
                bits &= ~bit
        if bits:
            reasons.add(f"reason_{bits:#x}")
        return frozenset(reasons)

    def temperature_c(self) -> float:
        """See `Device`."""
        sensor = getattr(self._library, "NVML_TEMPERATURE_GPU", 0)
        return float(
            self._query_chip_by(("nvmlDeviceGetTemperature", "nvmlDeviceGetTemperatureV"), sensor)
        )

    def clock_mhz(self) -> float:
        """See `Device`."""
        domain = getattr(self._library, "NVML_CLOCK_SM", 1)
        return float(self._query_chip("nvmlDeviceGetClockInfo", domain))
