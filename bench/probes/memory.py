"""Peak memory of the process and of the accelerator's allocator."""

from collections.abc import Callable
from dataclasses import replace

import torch

from bench.devices import Device, Unavailable
from bench.probes.host_memory import (
    anonymous_bytes,
    anonymous_peak_bytes,
    file_backed_bytes,
    reset_resident_peak,
    return_freed_memory,
    touch_libraries,
)
from bench.records.metrics import Value, Values, missing

_RESIDENT = "VmHWM less RssFile, over RssAnon at the start; allocator returning freed blocks"
# Above the contexts of an idle device: another process uses it.
_SHARED_BYTES = 2 * 2**30
_BASELINE = "RssAnon before the program is built, and RssFile after a steady step"
_ALLOCATOR = "torch caching allocator"


class MemoryProbe:
    """Peak memory of the first step and of a steady one.

    Create the probe before the program is built, so that the weights count.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._on_device = device.torch_device.type == "cuda"
        self._returns = return_freed_memory(True)
        touch_libraries()
        self._start = 0
        self._unavailable: Unavailable | None = None
        self._used_before = self._used()
        try:
            self._start = anonymous_bytes()
        except Unavailable as error:
            self._unavailable = error

    def peaks(self, step: Callable[[], None], *, first: bool) -> Values:
        """Run a step and return its peaks."""
        prefix = "first_step_" if first else ""
        unavailable = self._unavailable or self._reset()
        step()
        self._device.synchronize()
        values = {f"{prefix}peak_resident_bytes": self._resident(unavailable)}
        allocated, reserved = self._allocator()
        values[f"{prefix}peak_allocated_bytes"] = allocated
        if not first:
            values["peak_reserved_bytes"] = reserved
            values["baseline_resident_bytes"] = self._baseline()
        return values

    def _reset(self) -> Unavailable | None:
        if self._on_device:
            torch.cuda.reset_peak_memory_stats(self._device.torch_device)
        try:
            reset_resident_peak()
        except Unavailable as error:
            return error
        return None

    def _resident(self, unavailable: Unavailable | None) -> Value:
        if unavailable:
            return missing(str(unavailable))
        peak = anonymous_peak_bytes() - self._start
        if self._returns:
            return Value(peak, _RESIDENT)
        flags = ("the C library keeps freed blocks",)
        return Value(peak, _RESIDENT, quality="degraded", flags=flags)

    def _baseline(self) -> Value:
        """Return the resident memory that peaks do not include."""
        if self._unavailable:
            return missing(str(self._unavailable))
        return Value(self._start + file_backed_bytes(), _BASELINE)

    def _allocator(self) -> tuple[Value, Value]:
        if not self._on_device:
            why = missing(f"the allocator on {self._device.torch_device.type} records no peak")
            return why, why
        stats = torch.cuda.memory_stats(self._device.torch_device)
        flags = ("allocator retried",) if stats.get("num_alloc_retries", 0) else ()
        allocated, reserved = (
            Value(stats[f"{kind}_bytes.all.peak"], _ALLOCATOR, flags=flags)
            for kind in ("allocated", "reserved")
        )
        return allocated, reserved

    def finish(self) -> None:
        """End the memory pass: reset the C allocator to its usual thresholds."""
        return_freed_memory(False)

    def device_used(self) -> Values:
        """Return the driver's used memory, flagged if it was in use before the case."""
        used, before = self._used(), self._used_before.value or 0
        if used.value is not None and before > _SHARED_BYTES:
            flag = f"{before / 2**20:.0f} MiB were in use before the case"
            used = replace(used, quality="degraded", flags=(flag,))
        return {"device_used_bytes": used}

    def _used(self) -> Value:
        try:
            return Value(self._device.used_bytes(), "driver")
        except Unavailable as error:
            return missing(str(error))
