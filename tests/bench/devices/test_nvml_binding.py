"""NVIDIA devices through the real Python binding, over a scripted C library."""

import re
from importlib.util import find_spec

import pytest

from bench.devices.device import LibraryMissing, NotSupported
from bench.devices.nvidia import NvidiaDevice

pytestmark = pytest.mark.skipif(
    find_spec("pynvml") is None, reason="pynvml is not installed: pip install 'foldperf[test]'"
)
SUCCESS, NOT_SUPPORTED, FUNCTION_NOT_FOUND = 0, 3, 13


class ScriptedC:
    """Functions of NVML's C interface, which write into their caller's memory.

    A method has the function's name without ``nvml``, in the words of Python.

    Attributes:
        energy_mj: Value of the energy counter.
        live: Samples of the performance monitor that are allocated.
    """

    def __init__(self, pynvml):
        self.pynvml = pynvml
        self.energy_mj = 2_500
        self.live = 0

    def pointer(self, name):
        """Stand in for the binding's look-up of a function."""
        method = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.removeprefix("nvml")).lower()
        return getattr(self, method, lambda *_: NOT_SUPPORTED)

    def init_with_flags(self, flags):
        return SUCCESS

    def device_get_handle_by_uuid(self, uuid, device):
        return SUCCESS if uuid.value == b"GPU-7" else 6

    def device_get_total_energy_consumption(self, device, millijoules):
        millijoules._obj.value = self.energy_mj
        return SUCCESS

    def device_get_current_clocks_event_reasons(self, device, reasons):
        reasons._obj.value = 0x44
        return SUCCESS

    def device_get_temperature(self, device, sensor, temperature):
        return FUNCTION_NOT_FOUND

    def device_get_temperature_v(self, device, request):
        assert request._obj.version == self.pynvml.nvmlTemperature_v1
        assert request._obj.sensorType == self.pynvml.NVML_TEMPERATURE_GPU
        request._obj.temperature = 61
        return SUCCESS

    def gpm_query_device_support(self, device, support):
        support._obj.isSupportedDevice = 1
        return SUCCESS

    def gpm_sample_alloc(self, sample):
        sample._obj.contents = self.pynvml.struct_c_nvmlGpmSample_t()
        self.live += 1
        return SUCCESS

    def gpm_sample_get(self, device, sample):
        assert sample
        return SUCCESS

    def gpm_sample_free(self, sample):
        self.live -= 1
        return SUCCESS

    def gpm_metrics_get(self, request):
        requested = request._obj
        assert requested.version == 1
        assert requested.sample1
        assert requested.sample2
        for metric in requested.metrics[: requested.numMetrics]:
            metric.value = 10.0 * metric.metricId
            is_tensor = metric.metricId == self.pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL
            metric.nvmlReturn = NOT_SUPPORTED if is_tensor else SUCCESS
        return SUCCESS


@pytest.fixture
def library(monkeypatch):
    pynvml = pytest.importorskip("pynvml")
    scripted = ScriptedC(pynvml)
    monkeypatch.setattr(pynvml, "_LoadNvmlLibrary", lambda: None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", scripted.pointer)
    return scripted


def test_readings_pass_through_the_binding(library):
    device = NvidiaDevice(0, "7")
    assert device.library_error is None
    assert device.energy_j() == 2.5
    assert device.throttle_reasons() == {"sw_power_cap", "hw_thermal_slowdown"}
    assert device.temperature_c() == 61
    with pytest.raises(NotSupported, match="Not Supported"):
        device.used_bytes()
    library.device_get_total_energy_consumption = lambda *_: FUNCTION_NOT_FOUND
    with pytest.raises(LibraryMissing, match="Function Not Found"):
        device.energy_j()


def test_performance_monitor_passes_through_the_binding(library):
    device = NvidiaDevice(0, "7")
    assert device.activity_pct() == {}
    means = device.activity_pct()
    ids = {
        "sm": library.pynvml.NVML_GPM_METRIC_SM_UTIL,
        "occupancy": library.pynvml.NVML_GPM_METRIC_SM_OCCUPANCY,
        "dram": library.pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL,
    }
    assert means == {unit: 10.0 * number for unit, number in ids.items()}
    device.activity_pct()
    assert library.live == 1


def test_binding_without_a_driver_is_reported(monkeypatch):
    device = NvidiaDevice(0, "7")
    if device.library_error is None:
        pytest.skip("this machine has a driver")
    with pytest.raises(LibraryMissing, match="NVML Shared Library Not Found") as caught:
        device.energy_j()
    assert "NVIDIA driver" in caught.value.unlock
