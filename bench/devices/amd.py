"""AMD devices, through AMD SMI (package amdsmi, whose version should be that of ROCm)."""

import contextlib
import io
from collections.abc import Callable, Collection, Mapping
from typing import Any

from bench.devices.accelerator import Accelerator, TorchProperties
from bench.devices.amd_energy import EnergyCounter
from bench.devices.device import (
    Description,
    EnergyReading,
    LibraryMissing,
    NoPermission,
    NotSupported,
    Unavailable,
    hashed,
)
from refsys.costs.devices import candidates

# Codes of the library; every other code means that the quantity is not supported.
STATUS: dict[str, tuple[int, type[Unavailable]]] = {
    "AMDSMI_STATUS_FAIL_LOAD_MODULE": (4, LibraryMissing),
    "AMDSMI_STATUS_FAIL_LOAD_SYMBOL": (5, LibraryMissing),
    "AMDSMI_STATUS_NO_PERM": (10, NoPermission),
    "AMDSMI_STATUS_NOT_INIT": (32, LibraryMissing),
    "AMDSMI_STATUS_DRIVER_NOT_LOADED": (34, LibraryMissing),
    "AMDSMI_STATUS_NO_DRV": (51, LibraryMissing),
}
_ERRORS = dict(STATUS.values())
BINDING = "pip install 'foldperf[amd]'"
_ROCM = "install ROCm's amd-smi-lib, which has libamd_smi.so, and an amdsmi of the same version"
_UNLOCK: dict[type[Unavailable], str] = {
    LibraryMissing: f"{BINDING}, and {_ROCM}",
    NoPermission: "join the groups 'render' and 'video'",
}
# Values by which AMD SMI marks an unknown quantity.
_UNKNOWN = frozenset({"", "N/A", "None", str(2**32 - 1), str(2**64 - 1)})
# Compute partitions of an undivided device. For the parts of a divided one (DPX, QPX, CPX), AMD SMI
# reports memory, energy and activity of the whole device.
_WHOLE = frozenset({None, "SPX"})
# Names of fields in older versions: the energy accumulator before 6.3, the clock before 6.2.
OLDER_FIELDS = frozenset({"power", "cur_clk"})
# Limits that reduce the clock, by the field that reports them.
VIOLATIONS = {
    "active_ppt_pwr": "power_cap",
    "active_prochot_thrm": "processor_hot",
    "active_socket_thrm": "socket_thermal",
    "active_vr_thrm": "voltage_regulator_thermal",
    "active_hbm_thrm": "memory_thermal",
}
# Older devices report that the clock is limited, without a reason.
UNNAMED_REASON = "unnamed_limit"


class AmdDevice(Accelerator):
    """AMD GPU, or one die of a module, as torch numbers it."""

    library_unlock = _UNLOCK[LibraryMissing]

    def __init__(
        self,
        index: int = 0,
        bdf: str | None = None,
        smi: Any = None,
        properties: TorchProperties | None = None,
        case_bdfs: Collection[str] = (),
    ) -> None:
        """Find the device.

        Args:
            index: torch's number of the device.
            bdf: PCI address; without it, `index` is taken in AMD SMI's own order.
            smi: The amdsmi module, or a stand-in; loaded if None.
            properties: Properties that torch knows.
            case_bdfs: Addresses of all devices that the case runs on.
        """
        self._index = index
        self._bdf = bdf
        self._case_bdfs = case_bdfs
        self._partition: str | None = None
        self._energy: EnergyCounter | None = None
        super().__init__(index, smi, properties)
        self._partition = self._value("amdsmi_get_gpu_compute_partition")

    def _load(self) -> Any:
        try:
            # Without ROCm the import prints, and raises KeyError or OSError as well as ImportError.
            with contextlib.redirect_stdout(io.StringIO()):
                import amdsmi
        except ModuleNotFoundError as error:
            if error.name != "amdsmi":
                raise LibraryMissing(f"amdsmi cannot be imported ({error})", BINDING) from None
            raise LibraryMissing(
                "the package amdsmi is not installed", self.library_unlock
            ) from None
        except Exception as error:
            reason = f"amdsmi cannot be imported ({type(error).__name__}: {error})"
            raise LibraryMissing(reason, _ROCM) from None
        self._library = amdsmi
        self._ask("amdsmi_init")
        return amdsmi

    def _find(self) -> Any:
        if self._bdf:
            return self._ask("amdsmi_get_processor_handle_from_bdf", self._bdf)
        handles = self._ask("amdsmi_get_processor_handles")
        if self._index >= len(handles):
            raise NotSupported(
                f"there is no device {self._index}: AMD SMI lists {len(handles)} devices"
            )
        return handles[self._index]

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except self._library.AmdSmiException as error:
            code = getattr(error, "err_code", None)
            kind = _ERRORS.get(abs(code) if isinstance(code, int) else 0, NotSupported)
            reason = " ".join(str(error).split()) or type(error).__name__
            raise kind(f"{function.__name__}: {reason}", _UNLOCK.get(kind, "")) from None

    def _fields(
        self, query: str, *names: str, of: Any = None, args: tuple[Any, ...] = ()
    ) -> list[Any]:
        """Return fields of a query's result, in order; None for absent or unknown fields.

        Args:
            query: Function of the library that returns a dictionary.
            names: Keys of the dictionary.
            of: Handle of another device.
            args: Further arguments of the function.
        """
        answer = self._ask(query, self._handle if of is None else of, *args)
        return [_valid(answer.get(name)) for name in names]

    def _value(self, query: str) -> Any:
        """Return the result of a query that returns a single value, or None."""
        return _valid(self._optional(query))

    def _field(self, query: str, name: str) -> Any:
        """Return one field of a query's result, or None."""
        try:
            return self._fields(query, name)[0]
        except Unavailable:
            return None

    def _part(self) -> str:
        return "" if self._partition in _WHOLE else f"{self._partition} partition"

    def describe(self) -> Description:
        """See `Device`."""
        total = cap = None
        if not self._part():
            total = self._field("amdsmi_get_gpu_vram_usage", "vram_total")
            # The silent die of a module has a cap of 0.
            cap = self._field("amdsmi_get_power_cap_info", "power_cap") or None
        memory = self._properties.memory_bytes if self._properties else None
        identity = self._identity()
        return Description(
            vendor="amd",
            name=self._name(),
            kind="cuda",
            memory_bytes=memory if total is None else int(total) * 2**20,
            uuid_hash=identity,
            driver=self._field("amdsmi_get_gpu_driver_info", "driver_version"),
            vbios=self._field("amdsmi_get_gpu_vbios_info", "version"),
            # AMD SMI returns microwatts; versions before 6 returned watts.
            power_cap_w=None if cap is None else (cap / 1e6 if cap > 1e5 else float(cap)),
            partition=self._partition,
            energy_domain=self._energy_domain(identity),
            energy_scope=self._energy_scope(),
        )

    def _identity(self) -> str | None:
        uuid = self._value("amdsmi_get_gpu_device_uuid")
        if uuid is None and self._properties and self._properties.uuid:
            uuid = f"torch {self._properties.uuid}"
        return hashed(uuid)

    def _name(self) -> str:
        name = self._field("amdsmi_get_gpu_asic_info", "market_name")
        if name or self._properties is None:
            return name or "AMD GPU of unknown name"
        architecture = self._properties.architecture or "unknown architecture"
        return self._properties.name or f"AMD GPU ({architecture}) of unknown name"

    def _energy_scope(self) -> Any:
        if self._part():
            return None
        scopes = {entry.energy_scope for entry in candidates(self._name())}
        return scopes.pop() if len(scopes) == 1 else None

    def _energy_domain(self, identity: str | None) -> str | None:
        if self._part():
            return None
        module = None if self._unavailable else self._counter().module
        return module.identity() if module else identity

    def _counter(self) -> EnergyCounter:
        """Return the energy counter, created at the first call."""
        self._raise_if_unavailable()
        if self._energy is None:
            self._energy = EnergyCounter(
                self._fields, self._ask, self._handle, self._name(), self._case_bdfs
            )
        return self._energy

    def used_bytes(self) -> int:
        """See `Device`."""
        self._need_whole("count of used memory")
        (used,) = self._fields("amdsmi_get_gpu_vram_usage", "vram_used")
        if used is None:
            raise NotSupported("AMD SMI reports no used memory")
        return int(used) * 2**20

    def energy_j(self) -> float:
        """See `Device` and `energy_reading`."""
        return self.energy_reading().joules

    def energy_reading(self) -> EnergyReading:
        """See `Device`.

        The counter of a module of two dies is read at the die that reports it. The case must run on
        both dies, or on that one while the other is idle.
        """
        self._need_whole("energy counter")
        return self._counter().read()

    def busy_pct(self) -> float:
        """See `Device`."""
        self._need_whole("busy counter")
        (busy,) = self._fields("amdsmi_get_gpu_activity", "gfx_activity")
        if busy is None:
            raise NotSupported("AMD SMI reports no graphics activity")
        return float(busy)

    def activity_pct(self) -> Mapping[str, float]:
        """See `Device`; present values of the shader engines and of the memory controllers."""
        self._need_whole("activity counters")
        gfx, dram = self._fields("amdsmi_get_gpu_activity", "gfx_activity", "umc_activity")
        values = {"gfx": gfx, "dram": dram}
        activity = {unit: float(value) for unit, value in values.items() if value is not None}
        if not activity:
            raise NotSupported("AMD SMI reports no activity")
        return activity

    def throttle_reasons(self) -> frozenset[str]:
        """See `Device`; devices before the MI300 report no names. The query takes 0.1 s."""
        try:
            flags = self._fields("amdsmi_get_violation_status", *VIOLATIONS)
        except Unavailable:
            flags = []
        if any(flag is not None for flag in flags):
            return frozenset(
                name for name, flag in zip(VIOLATIONS.values(), flags, strict=True) if flag
            )
        status = self._fields(
            "amdsmi_get_gpu_metrics_info", "indep_throttle_status", "throttle_status"
        )
        if all(flag is None for flag in status):
            raise NotSupported("AMD SMI reports no throttle status for this device")
        return frozenset({UNNAMED_REASON} if any(status) else ())

    def temperature_c(self) -> float:
        """See `Device`; the temperature of the hottest point of the chip."""
        self._raise_if_unavailable()
        sensor = self._library.AmdSmiTemperatureType.HOTSPOT
        metric = self._library.AmdSmiTemperatureMetric.CURRENT
        value = float(self._query("amdsmi_get_temp_metric", sensor, metric))
        # The library returns degrees, although its manual says millidegrees: accept both.
        return value / 1e3 if abs(value) > 1e3 else value

    def clock_mhz(self) -> float:
        """See `Device`; for a device of several dies with separate clocks, the first die's."""
        self._raise_if_unavailable()
        kind = self._library.AmdSmiClkType.GFX
        now, older = self._fields("amdsmi_get_clock_info", "clk", "cur_clk", args=(kind,))
        value = older if now is None else now
        if value is None:
            raise NotSupported("AMD SMI reports no clock")
        return float(value)

    def _raise_if_unavailable(self) -> None:
        """Raise the reason for which the library cannot be queried, if there is one."""
        if self._unavailable:
            raise self._unavailable


def _valid(value: Any) -> Any:
    return None if value is None or str(value) in _UNKNOWN else value
