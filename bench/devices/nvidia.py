"""NVIDIA devices, through NVML (package nvidia-ml-py, module pynvml)."""

import hashlib
from collections.abc import Callable
from typing import Any

import torch

from bench.devices.device import (
    CudaStopwatch,
    Description,
    Device,
    DeviceLost,
    LibraryMissing,
    NoPermission,
    NotSupported,
    Stopwatch,
    Unavailable,
)
from bench.devices.peaks import peak_bfloat16

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
_UNLOCK: dict[type[Unavailable], str] = {
    LibraryMissing: "install the NVIDIA driver and 'pip install nvidia-ml-py'",
    NoPermission: "ask the administrator for access to the counter",
    DeviceLost: "reset the device",
}


def load_nvml() -> Any:
    """The initialized pynvml module.

    Raises:
        LibraryMissing: it is not installed, or finds no driver.
    """
    try:
        import pynvml
    except ImportError:
        reason = "the Python binding of NVML is not installed"
        raise LibraryMissing(reason, "pip install nvidia-ml-py") from None
    _call(pynvml, pynvml.nvmlInit)
    return pynvml


def _call(nvml: Any, function: Callable[..., Any], *args: Any) -> Any:
    """Calls an NVML function; its errors become ours by the table."""
    try:
        return function(*args)
    except nvml.NVMLError as error:
        kind = _ERRORS.get(type(error).__name__, NotSupported)
        raise kind(f"{function.__name__}: {error}", _UNLOCK.get(kind, "")) from None


class NvidiaDevice(Device):
    """One NVIDIA GPU as torch numbers it."""

    def __init__(self, index: int = 0, uuid: str | None = None, nvml: Any = None) -> None:
        """Finds the device.

        Args:
            index: torch's number of it.
            uuid: Its UUID, without which NVML's own order is taken; torch and NVML may disagree.
            nvml: The pynvml module, or a stand-in; loaded if None. What needs it is unavailable
                if it cannot be loaded.
        """
        self.torch_device = torch.device("cuda", index)
        self._index = index
        self._uuid = uuid
        self._nvml = nvml
        self._why_not: Unavailable | None = None
        self._handle: Any = None
        try:
            self._nvml = nvml or load_nvml()
            if uuid:
                name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
                self._handle = self._raw("nvmlDeviceGetHandleByUUID", name.encode())
            else:
                self._handle = self._raw("nvmlDeviceGetHandleByIndex", index)
        except Unavailable as error:
            self._why_not = error

    def _raw(self, name: str, *args: Any) -> Any:
        function = getattr(self._nvml, name, None)
        if function is None:
            raise LibraryMissing(f"this binding of NVML has no {name}", _UNLOCK[LibraryMissing])
        return _call(self._nvml, function, *args)

    def _query(self, name: str, *args: Any) -> Any:
        if self._why_not:
            raise self._why_not
        return self._raw(name, self._handle, *args)

    def _optional(self, name: str, *args: Any) -> Any:
        try:
            return self._query(name, *args)
        except Unavailable:
            return None

    def describe(self) -> Description:
        """See `Device`."""
        memory = self._optional("nvmlDeviceGetMemoryInfo")
        power = self._optional("nvmlDeviceGetEnforcedPowerLimit")
        ecc = self._optional("nvmlDeviceGetEccMode")
        mig = self._optional("nvmlDeviceGetMigMode")
        uuid = _text(self._optional("nvmlDeviceGetUUID")) or self._uuid
        try:
            driver = _text(None if self._why_not else self._raw("nvmlSystemGetDriverVersion"))
        except Unavailable:
            driver = None
        return Description(
            vendor="nvidia",
            name=_text(self._optional("nvmlDeviceGetName")) or "NVIDIA GPU of unknown name",
            kind="cuda",
            memory_bytes=None if memory is None else int(memory.total),
            uuid_hash=_hash(uuid),
            driver=driver,
            vbios=_text(self._optional("nvmlDeviceGetVbiosVersion")),
            power_cap_w=None if power is None else power / 1e3,
            partition=None if mig is None else ("mig" if mig[0] else "whole"),
            ecc=None if ecc is None else bool(ecc[0]),
            energy_domain=_hash(uuid),
        )

    def stopwatch(self) -> Stopwatch:
        """See `Device`."""
        return CudaStopwatch()

    def synchronize(self) -> None:
        """See `Device`."""
        torch.cuda.synchronize(self.torch_device)

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
        sensor = getattr(self._nvml, "NVML_TEMPERATURE_GPU", 0)
        return float(self._query("nvmlDeviceGetTemperature", sensor))

    def clock_mhz(self) -> float:
        """See `Device`."""
        return float(self._query("nvmlDeviceGetClockInfo", getattr(self._nvml, "NVML_CLOCK_SM", 1)))

    def peak_flops(self) -> float:
        """See `Device`."""
        peak = peak_bfloat16(self.describe().name)
        return super().peak_flops() if peak is None else peak


def _text(value: Any) -> str | None:
    """NVML gives bytes or str, depending on the binding's version."""
    if value is None:
        return None
    return value.decode() if isinstance(value, bytes) else str(value)


def _hash(uuid: str | None) -> str | None:
    return None if uuid is None else hashlib.sha256(uuid.encode()).hexdigest()[:16]
