"""NVIDIA devices, through NVML (package nvidia-ml-py, module pynvml).

Where a card is in MIG mode, torch sees one slice of it. Memory is then the slice's, from a handle
of its own; temperature and clock are the chip's; energy, power and utilization are the whole card's
alone, and a slice has none.
"""

import os
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
_CARD, _SLICE = "GPU-", "MIG-"
_BINDING = "pip install nvidia-ml-py"
_UNLOCK: dict[type[Unavailable], str] = {
    LibraryMissing: f"install the NVIDIA driver and '{_BINDING}'",
    NoPermission: "ask the administrator for access to the counter",
    DeviceLost: "reset the device",
}


class NvidiaDevice(Accelerator):
    """One NVIDIA GPU as torch numbers it, or one MIG slice."""

    library_unlock = _UNLOCK[LibraryMissing]

    def __init__(self, index: int = 0, uuid: str | None = None, nvml: Any = None) -> None:
        """Looks the device up.

        Args:
            index: torch's number of it.
            uuid: Its UUID, with or without ``GPU-`` or ``MIG-``. Without one NVML's own order is
                taken; torch and NVML may disagree.
            nvml: The pynvml module, or a stand-in; loaded if None.
        """
        self._index = index
        self._uuid = uuid
        # The card, where the device is a slice of it.
        self._card: Any = None
        self._is_slice = bool(uuid) and str(uuid).startswith(_SLICE)
        self._lookup_error: Unavailable | None = None
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
            return self._slice_of(self._ask("nvmlDeviceGetHandleByIndex", self._index))
        if self._uuid.startswith((_CARD, _SLICE)):
            names = [self._uuid]
        else:
            names = [_CARD + self._uuid, _SLICE + self._uuid]
        try:
            handle, name = self._by_uuid(names[0]), names[0]
        except NotSupported:
            if len(names) == 1:
                raise
            handle, name = self._by_uuid(names[1]), names[1]
        if name.startswith(_CARD):
            return self._slice_of(handle)
        self._is_slice = True
        try:
            self._card = self._ask("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle)
        except Unavailable as error:
            self._lookup_error = error
        return handle

    def _by_uuid(self, uuid: str) -> Any:
        return self._ask("nvmlDeviceGetHandleByUUID", uuid.encode())

    def _slice_of(self, card: Any) -> Any:
        """The slice of a card that torch sees; the card if it is not in MIG mode.

        Torch's UUID can be the card's. Then ``CUDA_VISIBLE_DEVICES`` names the slice, or the card
        has no other.
        """
        try:
            in_mig_mode = bool(self._ask("nvmlDeviceGetMigMode", card)[0])
        except Unavailable:
            in_mig_mode = False
        if not in_mig_mode:
            return card
        self._card, self._is_slice = card, True
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        named = visible[self._index].strip() if self._index < len(visible) else ""
        slices = self._slices(card)
        if named.startswith(_SLICE):
            try:
                return self._by_uuid(named)
            except NotSupported:
                # CUDA takes the unique beginning of a UUID as well.
                slices = {uuid: slice_ for uuid, slice_ in slices.items() if uuid.startswith(named)}
        if len(slices) == 1:
            return next(iter(slices.values()))
        self._lookup_error = NotSupported(
            "the card is in MIG mode, and NVML does not say which slice torch sees",
            "set CUDA_VISIBLE_DEVICES to the slice's MIG-UUID",
        )
        return None

    def _slices(self, card: Any) -> dict[str, Any]:
        """Handles of a card's slices by UUID."""
        slices = {}
        try:
            count = self._ask("nvmlDeviceGetMaxMigDeviceCount", card)
        except Unavailable:
            return {}
        for number in range(count):
            try:
                handle = self._ask("nvmlDeviceGetMigDeviceHandleByIndex", card, number)
                slices[_text(self._ask("nvmlDeviceGetUUID", handle)) or ""] = handle
            except Unavailable:
                continue  # numbers of slices that do not exist
        return slices

    def _part(self) -> str:
        return "MIG slice" if self._is_slice else ""

    def _query(self, name: str, *args: Any) -> Any:
        if self._handle is None and self._lookup_error:
            raise self._lookup_error
        return super()._query(name, *args)

    def _query_chip(self, name: str, *args: Any) -> Any:
        """Asks about the whole card, which may be shared with other slices."""
        if not self._is_slice:
            return self._query(name, *args)
        if self._card is None and self._lookup_error:
            raise self._lookup_error
        return self._ask(name, self._card, *args)

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
        memory = self._optional("nvmlDeviceGetMemoryInfo")
        ecc = self._optional_chip("nvmlDeviceGetEccMode")
        power = None
        if not self._is_slice:
            power = self._optional("nvmlDeviceGetEnforcedPowerLimit")
        identity = hashed(_text(self._optional("nvmlDeviceGetUUID")) or self._uuid)
        return Description(
            vendor="nvidia",
            name=self._name(),
            kind="cuda",
            memory_bytes=None if memory is None else int(memory.total),
            uuid_hash=identity,
            driver=self._driver(),
            vbios=_text(self._optional_chip("nvmlDeviceGetVbiosVersion")),
            power_cap_w=None if power is None else power / 1e3,
            partition=self._partition(),
            ecc=None if ecc is None else bool(ecc[0]),
            energy_domain=None if self._is_slice else identity,
        )

    def _partition(self) -> str | None:
        if self._is_slice:
            return "mig"
        return None if self._optional("nvmlDeviceGetMigMode") is None else "whole"

    def _name(self) -> str:
        name = _text(self._optional("nvmlDeviceGetName"))
        if name is None and self._is_slice:
            name = _text(self._optional_chip("nvmlDeviceGetName"))
        name = name or "NVIDIA GPU of unknown name"
        # NVML names a slice with its profile, as in "MIG 1g.10gb"; a card's name is not a slice's.
        return f"{name} MIG" if self._is_slice and "MIG" not in name else name

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
        self._need_whole("energy counter")
        return float(self._query("nvmlDeviceGetTotalEnergyConsumption")) / 1e3

    def busy_pct(self) -> float:
        """See `Device`; NVML's sample period is between 1/6 s and 1 s."""
        self._need_whole("busy counter")
        return float(self._query("nvmlDeviceGetUtilizationRates").gpu)

    def temperature_c(self) -> float:
        """See `Device`."""
        sensor = getattr(self._library, "NVML_TEMPERATURE_GPU", 0)
        return float(self._query_chip("nvmlDeviceGetTemperature", sensor))

    def clock_mhz(self) -> float:
        """See `Device`."""
        domain = getattr(self._library, "NVML_CLOCK_SM", 1)
        return float(self._query_chip("nvmlDeviceGetClockInfo", domain))


def _text(value: Any) -> str | None:
    """NVML gives bytes or str, depending on the binding's version."""
    if value is None:
        return None
    return value.decode() if isinstance(value, bytes) else str(value)
