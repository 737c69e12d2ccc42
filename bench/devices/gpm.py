"""Activity of an NVIDIA chip's units, by NVML's performance monitor (GPM; Hopper and newer)."""

from collections.abc import Callable
from typing import Any

from bench.devices.device import NotSupported

# Metrics of the share of time in which a unit was active, averaged over the chip.
METRICS = {
    "sm": "NVML_GPM_METRIC_SM_UTIL",
    "occupancy": "NVML_GPM_METRIC_SM_OCCUPANCY",
    "tensor": "NVML_GPM_METRIC_ANY_TENSOR_UTIL",
    "dram": "NVML_GPM_METRIC_DRAM_BW_UTIL",
}


class PerformanceMonitor:
    """Monitor of a device's activity, averaged between successive samples."""

    def __init__(self, library: Any, ask: Callable[..., Any], handle: Any) -> None:
        """Check that the device has the monitor.

        Args:
            library: The pynvml module.
            ask: Function that calls the library by name; raises `Unavailable`.
            handle: Handle of the device.

        Raises:
            NotSupported: The device is too old.
            Unavailable: The library or driver is too old, or the user has no permission.
        """
        self._library, self._ask, self._handle = library, ask, handle
        self._sample: Any = None
        if not ask("nvmlGpmQueryDeviceSupport", handle).isSupportedDevice:
            raise NotSupported(
                "the device has no performance monitor that NVML reads (Hopper and newer have one)",
                "run on a Hopper or newer device",
            )

    def means_pct(self) -> dict[str, float]:
        """Take a sample and return the means since the previous one; empty at the first call.

        Samples less than about 0.1 s apart give coarse means. Unit: %.

        Raises:
            NotSupported: None of the metrics has a value.
        """
        sample = self._ask("nvmlGpmSampleAlloc")
        try:
            self._ask("nvmlGpmSampleGet", self._handle, sample)
        except BaseException:
            self._ask("nvmlGpmSampleFree", sample)
            raise
        previous, self._sample = self._sample, sample
        if previous is None:
            return {}
        try:
            return self._between(previous, sample)
        finally:
            self._ask("nvmlGpmSampleFree", previous)

    def _between(self, earlier: Any, later: Any) -> dict[str, float]:
        request = self._library.c_nvmlGpmMetricsGet_t()
        request.version = self._library.NVML_GPM_METRICS_GET_VERSION
        request.numMetrics = len(METRICS)
        request.sample1, request.sample2 = earlier, later
        for position, constant in enumerate(METRICS.values()):
            request.metrics[position].metricId = getattr(self._library, constant)
        self._ask("nvmlGpmMetricsGet", request)
        means = {
            unit: float(request.metrics[position].value)
            for position, unit in enumerate(METRICS)
            if request.metrics[position].nvmlReturn == self._library.NVML_SUCCESS
        }
        if not means:
            raise NotSupported("the performance monitor returned none of its metrics")
        return means
