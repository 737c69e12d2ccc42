"""NVIDIA devices with a scripted NVML."""

import sys

import pytest
from support.fake_nvml import FakeNvml

from bench.devices.accelerator import TorchProperties
from bench.devices.device import DeviceLost, LibraryMissing, NoPermission, NotSupported, hashed
from bench.devices.nvidia import SETTINGS, THROTTLING, NvidiaDevice
from refsys.costs.devices import listed

H200 = TorchProperties("NVIDIA H200", 150_000_000_000, 132, uuid="7")


def test_readings_have_the_units_of_the_interface():
    device = NvidiaDevice(0, "GPU-7", FakeNvml())
    assert device.energy_j() == 12_345.678
    assert device.energy_reading() == (12_345.678, None)
    assert device.used_bytes() == 3 * 2**30
    assert device.busy_pct() == 87
    assert device.temperature_c() == 55
    assert device.clock_mhz() == 1980


def test_peaks_equal_those_of_the_table():
    device = NvidiaDevice(0, "GPU-7", FakeNvml(), H200)
    entry = listed("NVIDIA H200")
    assert {dtype: device.peak_flops(dtype) for dtype in entry.flops} == entry.flops
    assert device.peak_rates() == entry.rates()
    with pytest.raises(NotSupported, match="no sourced float8_e4m3fn peak"):
        device.peak_flops("float8_e4m3fn")


def test_device_with_fewer_multiprocessors_than_listed_has_no_peak():
    part = NvidiaDevice(0, "GPU-7", FakeNvml(), H200._replace(units=66))
    for reading in (part.peak_rates, lambda: part.peak_flops("bfloat16")):
        with pytest.raises(NotSupported, match="66 of the 132 compute units of NVIDIA H200"):
            reading()


def test_description_has_every_field_of_the_driver():
    about = NvidiaDevice(0, "7", FakeNvml()).describe()
    assert (about.vendor, about.name, about.kind) == ("nvidia", "NVIDIA H200", "cuda")
    assert (about.driver, about.vbios, about.power_cap_w) == ("580.1", "96.00", 700.0)
    assert (about.partition, about.ecc, about.energy_scope) == ("whole", True, "device")
    assert "GPU-7" not in str(about), "identities are hashed"
    assert about.uuid_hash == about.energy_domain


def test_torch_and_nvml_agree_on_the_device_by_uuid():
    nvml = FakeNvml()
    NvidiaDevice(1, "7", nvml).energy_j()
    assert nvml.calls[0] == ("nvmlDeviceGetHandleByUUID", b"GPU-7")
    assert nvml.calls[1][1] == "handle of GPU-7"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("NVMLError_NotSupported", NotSupported),
        ("NVMLError_NoPermission", NoPermission),
        ("NVMLError_GpuIsLost", DeviceLost),
    ],
)
def test_library_errors_become_unavailable(error, kind):
    nvml = FakeNvml(nvmlDeviceGetTotalEnergyConsumption=error)
    with pytest.raises(kind, match=error):
        NvidiaDevice(0, "7", nvml).energy_j()


def test_description_is_complete_but_for_a_failing_query():
    about = NvidiaDevice(0, "7", FakeNvml(nvmlDeviceGetEccMode="NVMLError_NotSupported")).describe()
    assert about.ecc is None
    assert about.name == "NVIDIA H200"


def test_function_missing_from_an_old_binding_is_reported():
    nvml = FakeNvml()
    del nvml.nvmlDeviceGetUtilizationRates
    with pytest.raises(LibraryMissing, match="has no nvmlDeviceGetUtilizationRates") as caught:
        NvidiaDevice(0, "7", nvml).busy_pct()
    assert "foldperf[nvidia]" in caught.value.unlock


class TestTemperature:
    @pytest.mark.parametrize("gone", [True, False])
    def test_temperature_is_read_from_the_successor_when_the_function_is_missing(self, gone):
        nvml = FakeNvml(
            nvmlDeviceGetTemperature="NVMLError_FunctionNotFound", nvmlDeviceGetTemperatureV=61
        )
        if gone:
            del nvml.nvmlDeviceGetTemperature
        assert NvidiaDevice(0, "7", nvml).temperature_c() == 61
        assert nvml.calls[-1] == ("nvmlDeviceGetTemperatureV", "handle of GPU-7", 0)

    def test_first_error_is_raised_when_both_functions_fail(self):
        nvml = FakeNvml(nvmlDeviceGetTemperature="NVMLError_NotSupported")
        with pytest.raises(NotSupported, match="nvmlDeviceGetTemperature: script"):
            NvidiaDevice(0, "7", nvml).temperature_c()

    def test_lost_device_is_not_queried_again(self):
        nvml = FakeNvml(nvmlDeviceGetTemperature="NVMLError_GpuIsLost", nvmlDeviceGetTemperatureV=1)
        with pytest.raises(DeviceLost):
            NvidiaDevice(0, "7", nvml).temperature_c()


class TestThrottling:
    def reasons(self, bits, **answers):
        nvml = FakeNvml(nvmlDeviceGetCurrentClocksEventReasons=bits, **answers)
        return NvidiaDevice(0, "7", nvml).throttle_reasons()

    def test_every_bit_is_a_throttle_reason_or_a_setting(self):
        named = dict(THROTTLING.values())
        assert not set(named) & set(SETTINGS.values())
        for bit in (1 << position for position in range(16)):
            expected = set() if bit in SETTINGS.values() else {named.get(bit, f"reason_{bit:#x}")}
            assert self.reasons(bit) == expected

    def test_combined_throttle_reasons_are_separated(self):
        assert self.reasons(0x1 | 0x4 | 0x40) == {"sw_power_cap", "hw_thermal_slowdown"}
        assert self.reasons(0) == frozenset()

    def test_throttling_is_read_from_the_older_function_of_older_drivers(self):
        older = {"nvmlDeviceGetCurrentClocksThrottleReasons": 0x88}
        assert self.reasons("NVMLError_FunctionNotFound", **older) == {
            "hw_slowdown",
            "hw_power_brake",
        }


class TestActivity:
    def test_activity_is_empty_first_and_then_the_mean_since(self):
        nvml = FakeNvml()
        device = NvidiaDevice(0, "7", nvml)
        assert device.activity_pct() == {}
        expected = {"sm": 80.0, "occupancy": 50.0, "tensor": 30.0, "dram": 40.0}
        assert device.activity_pct() == expected
        nvml.activity[5] = 0.0
        assert device.activity_pct() == expected | {"tensor": 0.0}

    def test_samples_except_the_last_are_freed(self):
        nvml = FakeNvml()
        device = NvidiaDevice(0, "7", nvml)
        for _ in range(5):
            device.activity_pct()
        assert nvml.live_samples == [5]

    def test_failing_metric_is_omitted_and_no_metric_is_an_error(self):
        nvml = FakeNvml()
        device = NvidiaDevice(0, "7", nvml)
        device.activity_pct()
        del nvml.activity[5]
        assert set(device.activity_pct()) == {"sm", "occupancy", "dram"}
        nvml.activity.clear()
        with pytest.raises(NotSupported, match="none of its metrics"):
            device.activity_pct()
        assert len(nvml.live_samples) == 1

    def test_failed_sample_is_freed(self):
        nvml = FakeNvml(nvmlGpmSampleGet="NVMLError_NoPermission")
        with pytest.raises(NoPermission):
            NvidiaDevice(0, "7", nvml).activity_pct()
        assert not nvml.live_samples

    def test_device_before_hopper_has_no_monitor(self):
        nvml = FakeNvml()
        nvml.nvmlGpmQueryDeviceSupport = lambda _: type("Support", (), {"isSupportedDevice": 0})
        nvml.nvmlGpmQueryDeviceSupport.__name__ = "nvmlGpmQueryDeviceSupport"
        with pytest.raises(NotSupported, match="Hopper and newer") as caught:
            NvidiaDevice(0, "7", nvml).activity_pct()
        assert caught.value.unlock


class TestWithoutTheBinding:
    @pytest.fixture(autouse=True)
    def no_binding(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pynvml", None)

    def test_every_reading_without_the_library_has_a_remedy(self):
        device = NvidiaDevice(0, "7")
        for reading in (
            *(device.energy_j, device.energy_reading, device.used_bytes, device.busy_pct),
            *(device.activity_pct, device.throttle_reasons, device.temperature_c),
            device.clock_mhz,
        ):
            with pytest.raises(LibraryMissing) as caught:
                reading()
            assert caught.value.unlock == "pip install 'foldperf[nvidia]'"
        assert device.describe().vendor == "nvidia"

    def test_name_memory_identity_and_peaks_come_from_torch(self):
        device = NvidiaDevice(0, "7", None, H200)
        about = device.describe()
        assert (about.name, about.memory_bytes) == ("NVIDIA H200", 150_000_000_000)
        assert about.uuid_hash == hashed("GPU-7"), "as NVML would name it"
        assert device.peak_flops("bfloat16") == listed("NVIDIA H200").flops["bfloat16"]
