"""NVIDIA devices, through NVML (package nvidia-ml-py, module pynvml)."""

from collections.abc import Callable
from typing import Any

from bench.devices.accelerator import Accelerator
from bench.devices.device import (
    Description,
    DeviceLost,
    LibraryMissing,
    NoPermission,
    NotSupported,
    Unavailable,
    hashed,
)

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
_BINDING = "pip install nvidia-ml-py"
_UNLOCK: dict[type[Unavailable], str] = {
    LibraryMissing: f"install the NVIDIA driver and '{_BINDING}'",
    NoPermission: "ask the administrator for access to the counter",
    DeviceLost: "reset the device",
}


class NvidiaDevice(Accelerator):
    """One NVIDIA GPU as torch numbers it."""

    library_unlock = _UNLOCK[LibraryMissing]

    def __init__(self, index: int = 0, uuid: str | None = None, nvml: Any = None) -> None:
        """Finds the device.

        Args:
            index: torch's number of it.
            uuid: Its UUID, without which NVML's own order is taken; torch and NVML may disagree.
            nvml: The pynvml module, or a stand-in; loaded if None.
        """
        self._index = index
        self._uuid = uuid
        super().__init__(index, nvml)

    def _load(self) -> Any:
        try:
            import pynvml
        except ImportError:
            reason = "the Python binding of NVML is not installed"
            raise LibraryMissing(reason, _BINDING) from None
        self._library = pynvml
        self._ask("nvmlInit")
        return pynvml

    def _find(self) -> Any:
        if not self._uuid:
            return self._ask("nvmlDeviceGetHandleByIndex", self._index)
        whole = self._uuid.startswith(("GPU-", "MIG-"))
        name = self._uuid if whole else f"GPU-{self._uuid}"
        return self._ask("nvmlDeviceGetHandleByUUID", name.encode())

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except self._library.NVMLError as error:
            kind = _ERRORS.get(type(error).__name__, NotSupported)
            raise kind(f"{function.__name__}: {error}", _UNLOCK.get(kind, "")) from None

    def describe(self) -> Description:
        """See `Device`."""
        memory = self._optional("nvmlDeviceGetMemoryInfo")
        power = self._optional("nvmlDeviceGetEnforcedPowerLimit")
        ecc = self._optional("nvmlDeviceGetEccMode")
        mig = self._optional("nvmlDeviceGetMigMode")
        identity = hashed(_text(self._optional("nvmlDeviceGetUUID")) or self._uuid)
        return Description(
            vendor="nvidia",
            name=_text(self._optional("nvmlDeviceGetName")) or "NVIDIA GPU of unknown name",
            kind="cuda",
            memory_bytes=None if memory is None else int(memory.total),
            uuid_hash=identity,
            driver=self._driver(),
            vbios=_text(self._optional("nvmlDeviceGetVbiosVersion")),
            power_cap_w=None if power is None else power / 1e3,
            partition=None if mig is None else ("mig" if mig[0] else "whole"),
            ecc=None if ecc is None else bool(ecc[0]),
            energy_domain=identity,
        )

    def _driver(self) -> str | None:
        try:
            return _text(self._ask("nvmlSystemGetDriverVersion"))
        except Unavailable:
            return None

    def used_bytes(self) -> int:
        """See `Device`."""
        return int(self._query("nvmlDeviceGetMemoryInfo").used)

    def energy_j(self) -> float:
        """See `Device`; the driver counts millijoules since it was loaded."""
        return float(self._query("nvmlDeviceGetTotalEnergyConsumption")) / 1e3

    def busy_pct(self) -> float:
        """See `Device`; NVML's sample period is between 1/6 s and 1 s."""
        return float(self._query("nvmlDeviceGetUtilizationRates").gpu)

    def temperature_c(self) -> float:
        """See `Device`."""
        sensor = getattr(self._library, "NVML_TEMPERATURE_GPU", 0)
        return float(self._query("nvmlDeviceGetTemperature", sensor))

    def clock_mhz(self) -> float:
        """See `Device`."""
        domain = getattr(self._library, "NVML_CLOCK_SM", 1)
        return float(self._query("nvmlDeviceGetClockInfo", domain))


def _text(value: Any) -> str | None:
    """NVML gives bytes or str, depending on the binding's version."""
    if value is None:
        return None
    return value.decode() if isinstance(value, bytes) else str(value)
