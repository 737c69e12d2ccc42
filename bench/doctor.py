"""Metrics and readings that this machine has, and how to enable the others."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from bench.devices import Device, Unavailable
from bench.devices.accelerator import Accelerator
from bench.devices.calibration import load_calibration
from bench.devices.device import NotSupported
from bench.probes import host_memory
from bench.records.metrics import METRICS

Status = Literal["available", "degraded", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Metric, or reading of the device, on this machine.

    Attributes:
        metric: Its name.
        status: ``degraded`` where it can be had with a reservation.
        reason: Reason for which it is missing or degraded; empty if it is neither.
        unlock: Means that would make it available; empty if there is none.
    """

    metric: str
    status: Status
    reason: str = ""
    unlock: str = ""


def examine(device: Device) -> list[Finding]:
    """Try every metric of the table, in its order."""
    checks = _checks(device)
    return [_examine(name, checks.get(name)) for name in METRICS]


def examine_readings(device: Device) -> list[Finding]:
    """Try every reading that metrics and telemetry take of the device."""
    readings: dict[str, Callable[[], object]] = {
        "energy_j": device.energy_j,
        "energy_time_s": partial(_energy_time, device),
        "busy_pct": device.busy_pct,
        "activity_pct": device.activity_pct,
        "throttle_reasons": device.throttle_reasons,
        "temperature_c": device.temperature_c,
        "clock_mhz": device.clock_mhz,
        "used_bytes": device.used_bytes,
        "peak_flops": partial(device.peak_flops, "bfloat16"),
        "peak_rates": device.peak_rates,
    }
    return [_examine(name, partial(_read, reading)) for name, reading in readings.items()]


def library_finding(device: Device) -> Finding | None:
    """Return the state of the vendor's library; None for a device that needs none."""
    if not isinstance(device, Accelerator):
        return None
    error = device.library_error
    if error is None:
        return Finding("library", "available")
    return Finding("library", "missing", str(error), error.unlock)


def _check_calibration(device: Device) -> None:
    if load_calibration(device.describe()) is None:
        raise NotSupported("this device has no calibration", "run foldperf check-device")


def _energy_time(device: Device) -> float:
    seconds = device.energy_reading().device_s
    if seconds is None:
        raise NotSupported("the energy counter comes without a time of the device")
    return seconds


def _read(reading: Callable[[], object]) -> None:
    reading()


def _examine(name: str, check: "_Check | None") -> Finding:
    if check is None:
        return Finding(name, "available")
    try:
        degraded = check()
    except Unavailable as error:
        return Finding(name, "missing", str(error), error.unlock)
    return Finding(name, "degraded", *degraded) if degraded else Finding(name, "available")


_Check = Callable[[], tuple[str, str] | None]


def _checks(device: Device) -> dict[str, _Check]:
    """Return checks of the metrics that not every machine has.

    A check raises, or returns reason and unlock of what is degraded.
    """
    accelerator = partial(_need_accelerator, device)
    peak = partial(_check_peak, device)
    energy = partial(_check_energy, device)
    return {
        "peak_resident_bytes": _check_resident,
        "first_step_peak_resident_bytes": _check_resident,
        "peak_allocated_bytes": accelerator,
        "first_step_peak_allocated_bytes": accelerator,
        "peak_reserved_bytes": accelerator,
        "kernel_launches": accelerator,
        "memory_copies": accelerator,
        "device_used_bytes": partial(_read, device.used_bytes),
        "device_busy_pct": partial(_read, device.busy_pct),
        "unit_activity_pct": partial(_read, device.activity_pct),
        "device_time_s": accelerator,
        "error_ratio": accelerator,
        "differing_numbers": accelerator,
        "achieved_bound_s": partial(_check_calibration, device),
        "ratio_to_achieved_bound": partial(_check_calibration, device),
        "host_launches": accelerator,
        "graph_launches": accelerator,
        "model_flop_utilization": peak,
        "hardware_flop_utilization": peak,
        "roofline_bound_s": partial(_read, device.peak_rates),
        "ratio_to_roofline": partial(_read, device.peak_rates),
        "energy_per_step_j": energy,
        "mean_power_w": energy,
        "idle_power_w": energy,
        "energy_above_idle_per_step_j": energy,
    }


def _check_peak(device: Device) -> tuple[str, str] | None:
    device.peak_flops("bfloat16")
    try:
        device.peak_flops("float32")
    except Unavailable as error:
        return str(error), error.unlock
    return None


def _check_energy(device: Device) -> tuple[str, str] | None:
    device.energy_j()
    if device.describe().energy_scope == "module":
        return (
            "the counter includes more than this device: the other die, or the processor",
            "compare with figures of whole modules alone",
        )
    return None


def _check_resident() -> tuple[str, str] | None:
    host_memory.anonymous_peak_bytes()
    host_memory.reset_resident_peak()
    if host_memory.return_freed_memory(True):
        host_memory.return_freed_memory(False)
        return None
    return (
        "the C library keeps freed blocks, so that the high-water mark overstates",
        "run with glibc",
    )


def _need_accelerator(device: Device) -> None:
    if device.torch_device.type == "cpu":
        raise NotSupported("torch sees no accelerator", "a CUDA or ROCm build of torch and a GPU")
