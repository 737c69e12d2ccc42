"""What this machine can measure, and what would unlock the rest."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from bench.devices import Device, Unavailable
from bench.devices.device import NotSupported
from bench.metrics import METRICS
from bench.probes import host_memory

Status = Literal["available", "degraded", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One metric on this machine.

    Attributes:
        metric: Its name.
        status: Whether it can be had.
        reason: Why not, or in what way it is degraded.
        unlock: What would make it available.
    """

    metric: str
    status: Status
    reason: str = ""
    unlock: str = ""


def examine(device: Device) -> list[Finding]:
    """Tries every metric of the table, in its order."""
    return [_examine(name, device) for name in METRICS]


def _examine(name: str, device: Device) -> Finding:
    check = _checks(device).get(name)
    if check is None:
        return Finding(name, "available")
    try:
        degraded = check()
    except Unavailable as error:
        return Finding(name, "missing", str(error), error.unlock)
    return Finding(name, "degraded", *degraded) if degraded else Finding(name, "available")


_Check = Callable[[], tuple[str, str] | None]


def _checks(device: Device) -> dict[str, _Check]:
    """Metrics that not every machine has: a check raises, or says how they are degraded."""

    def reading(read: Callable[[], object]) -> tuple[str, str] | None:
        read()
        return None

    accelerator = partial(_need_accelerator, device)
    peak = partial(_check_peak, device)
    energy = partial(reading, device.energy_j)
    return {
        "peak_resident_bytes": _check_resident,
        "first_step_peak_resident_bytes": _check_resident,
        "peak_allocated_bytes": accelerator,
        "first_step_peak_allocated_bytes": accelerator,
        "peak_reserved_bytes": accelerator,
        "kernel_launches": accelerator,
        "memory_copies": accelerator,
        "device_used_bytes": partial(reading, device.used_bytes),
        "device_busy_pct": partial(reading, device.busy_pct),
        "model_flop_utilization": peak,
        "hardware_flop_utilization": peak,
        "floor_s": partial(reading, device.peak_rates),
        "times_floor": partial(reading, device.peak_rates),
        "energy_per_step_j": energy,
        "mean_power_w": energy,
    }


def _check_peak(device: Device) -> tuple[str, str] | None:
    device.peak_flops("bfloat16")
    try:
        device.peak_flops("float32")
    except Unavailable as error:
        return str(error), error.unlock
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
