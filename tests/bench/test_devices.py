"""Vendor devices against scripted stand-ins of their libraries, and the host's own counters."""

import sys
from functools import partial
from types import SimpleNamespace

import pytest

from bench.devices import Unavailable, amd, find_device, nvidia
from bench.devices.cpu import CpuDevice
from bench.devices.device import (
    DeviceLost,
    HostStopwatch,
    LibraryMissing,
    NoPermission,
    NotSupported,
    hashed,
)
from bench.devices.peaks import PEAK_FLOPS, listed_peak
from bench.errors import UsageError


class FakeNvml(SimpleNamespace):
    """NVML as a script: what each query answers, or which of its errors it raises."""

    class NVMLError(Exception):
        pass

    def __init__(self, **answers):
        errors = {
            name: type(name, (FakeNvml.NVMLError,), {})
            for name in ("NVMLError_NotSupported", "NVMLError_NoPermission", "NVMLError_GpuIsLost")
        }
        super().__init__(calls=[], **errors)
        defaults = {
            "nvmlDeviceGetHandleByUUID": "handle of GPU-7",
            "nvmlDeviceGetHandleByIndex": "handle of 0",
            "nvmlDeviceGetName": b"NVIDIA H200",
            "nvmlDeviceGetUUID": "GPU-7",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=150_754_820_096, used=3 * 2**30),
            "nvmlDeviceGetEnforcedPowerLimit": 700_000,
            "nvmlDeviceGetEccMode": [1, 1],
            "nvmlDeviceGetMigMode": [0, 0],
            "nvmlDeviceGetVbiosVersion": "96.00",
            "nvmlSystemGetDriverVersion": "580.1",
            "nvmlDeviceGetTotalEnergyConsumption": 12_345_678,
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=87, memory=40),
            "nvmlDeviceGetTemperature": 55,
            "nvmlDeviceGetClockInfo": 1980,
        }
        for name, answer in (defaults | answers).items():
            setattr(self, name, self._function(name, answer))

    def _function(self, name, answer):
        def call(*arguments):
            self.calls.append((name, *arguments))
            if isinstance(answer, str) and answer.startswith("NVMLError_"):
                raise getattr(self, answer)(f"script says {answer}")
            return answer

        call.__name__ = name
        return call


class TestNvidia:
    def test_readings_have_our_units(self):
        device = nvidia.NvidiaDevice(0, "GPU-7", FakeNvml())
        assert device.energy_j() == 12_345.678
        assert device.used_bytes() == 3 * 2**30
        assert device.busy_pct() == 87
        assert device.temperature_c() == 55
        assert device.clock_mhz() == 1980
        for dtype, peak in PEAK_FLOPS["NVIDIA H200"].items():
            assert device.peak_flops(dtype) == peak
        rates = device.peak_rates()
        assert rates.bytes_s == 4.8e12
        # The multiply-adds of float32 are what every thread can issue.
        assert 2 * rates.instructions_s == pytest.approx(
            PEAK_FLOPS["NVIDIA H200"]["float32"], rel=0.01
        )
        assert rates.exponentials_s == rates.instructions_s / 8

    def test_a_part_of_a_device_and_an_unlisted_dtype_have_no_peak(self):
        with pytest.raises(NotSupported, match="partitioned"):
            nvidia.NvidiaDevice(0, None, FakeNvml(nvmlDeviceGetMigMode=(1, 1))).peak_flops(
                "bfloat16"
            )
        with pytest.raises(NotSupported, match="no sourced float64 peak"):
            nvidia.NvidiaDevice(0, None, FakeNvml()).peak_flops("float64")
        with pytest.raises(NotSupported, match="partitioned"):
            nvidia.NvidiaDevice(0, None, FakeNvml(nvmlDeviceGetMigMode=(1, 1))).peak_rates()
        with pytest.raises(NotSupported, match="no sourced peak rates for"):
            CpuDevice().peak_rates()

    def test_description(self):
        found = nvidia.NvidiaDevice(0, "7", FakeNvml()).describe()
        assert (found.vendor, found.name, found.kind) == ("nvidia", "NVIDIA H200", "cuda")
        assert (found.driver, found.vbios, found.power_cap_w) == ("580.1", "96.00", 700.0)
        assert (found.partition, found.ecc) == ("whole", True)
        assert "GPU-7" not in str(found), "identities are hashed"
        assert found.uuid_hash == found.energy_domain

    def test_torch_and_nvml_agree_on_the_device_by_uuid(self):
        nvml = FakeNvml()
        nvidia.NvidiaDevice(1, "7", nvml).energy_j()
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
    def test_errors_become_ours(self, error, kind):
        nvml = FakeNvml(nvmlDeviceGetTotalEnergyConsumption=error)
        with pytest.raises(kind, match=error):
            nvidia.NvidiaDevice(0, "7", nvml).energy_j()

    def test_a_query_that_fails_leaves_the_rest_of_the_description(self):
        nvml = FakeNvml(nvmlDeviceGetEccMode="NVMLError_NotSupported")
        found = nvidia.NvidiaDevice(0, "7", nvml).describe()
        assert found.ecc is None
        assert found.name == "NVIDIA H200"

    def test_an_old_binding_lacks_a_function(self):
        nvml = FakeNvml()
        del nvml.nvmlDeviceGetUtilizationRates
        with pytest.raises(LibraryMissing, match="has no nvmlDeviceGetUtilizationRates"):
            nvidia.NvidiaDevice(0, "7", nvml).busy_pct()

    def test_without_the_binding_everything_is_unavailable_and_says_how_to_get_it(
        self, monkeypatch
    ):
        monkeypatch.setitem(sys.modules, "pynvml", None)
        device = nvidia.NvidiaDevice(0, "7")
        for reading in (device.energy_j, device.used_bytes, device.busy_pct):
            with pytest.raises(LibraryMissing) as caught:
                reading()
            assert caught.value.unlock == "pip install nvidia-ml-py"
        assert device.describe().vendor == "nvidia"


class FakeMig(FakeNvml):
    """NVML with one H100 in MIG mode: what it answers of the card (GPU-7) and of its slices."""

    def __init__(self, slices=("MIG-a1", "MIG-a2"), **answers):
        super().__init__(nvmlDeviceGetMigMode=[1, 1], **answers)
        self.NVMLError_NotFound = type("NVMLError_NotFound", (FakeNvml.NVMLError,), {})
        self.slices = list(slices)
        for name in (
            *("nvmlDeviceGetHandleByUUID", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID"),
            *("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetName", "nvmlDeviceGetMaxMigDeviceCount"),
            *("nvmlDeviceGetMigDeviceHandleByIndex", "nvmlDeviceGetTemperature"),
            *("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", "nvmlDeviceGetMigMode"),
        ):
            setattr(self, name, partial(self._answer, name))
            getattr(self, name).__name__ = name

    def _answer(self, name, subject=None, number=0):
        if name == "nvmlDeviceGetHandleByUUID":
            uuid = subject.decode()
            if uuid != "GPU-7" and uuid not in self.slices:
                raise self.NVMLError_NotFound(uuid)
            return uuid
        if name == "nvmlDeviceGetMigDeviceHandleByIndex":
            assert subject == "GPU-7"
            if number >= len(self.slices):
                raise self.NVMLError_NotFound(number)
            return self.slices[number]
        is_slice = subject in self.slices
        memory = {"MIG-a1": 9_856, "MIG-a2": 19_968}.get(subject, 81_559) * 2**20
        profile = f" MIG {subject[4:]}" if is_slice else ""
        answers = {
            "nvmlDeviceGetHandleByIndex": "GPU-7",
            "nvmlDeviceGetUUID": subject,
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=memory, used=memory // 2),
            "nvmlDeviceGetName": f"NVIDIA H100 80GB HBM3{profile}",
            "nvmlDeviceGetMaxMigDeviceCount": 7,
            "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": "GPU-7",
        }
        if name in answers:
            return answers[name]
        if is_slice:
            raise self.NVMLError_NotSupported(name)
        return {"nvmlDeviceGetTemperature": 55, "nvmlDeviceGetMigMode": [1, 1]}[name]


class TestMigSlice:
    @pytest.mark.parametrize(
        ("uuid", "visible"),
        [
            ("MIG-a2", None),
            ("a2", None),  # as torch gives it, without the word before it
            ("7", "MIG-a2"),  # the card's, as older versions of CUDA give it
            ("GPU-7", "MIG-a2"),
            (None, "MIG-a2"),
            ("7", " MIG-a2 ,MIG-a1"),
        ],
    )
    def test_slice_has_its_own_memory_and_identity(self, monkeypatch, uuid, visible):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        device = nvidia.NvidiaDevice(0, uuid, FakeMig())
        about = device.describe()
        assert about.memory_bytes == 19_968 * 2**20
        assert device.used_bytes() == 19_968 * 2**19
        assert about.uuid_hash == hashed("MIG-a2")
        assert (about.name, about.partition) == ("NVIDIA H100 80GB HBM3 MIG a2", "mig")
        assert (about.power_cap_w, about.energy_domain) == (None, None)
        assert (about.vbios, about.ecc) == ("96.00", True)

    def test_slice_of_a_rank_is_that_of_its_place_in_the_variable(self, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a2,MIG-a1")
        device = nvidia.NvidiaDevice(1, "7", FakeMig())
        assert device.describe().uuid_hash == hashed("MIG-a1")

    def test_slice_is_the_only_one_or_that_of_a_unique_beginning(self, monkeypatch):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        only = nvidia.NvidiaDevice(0, "7", FakeMig(["MIG-b"]))
        assert only.describe().uuid_hash == hashed("MIG-b")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-b")
        fake = FakeMig(["MIG-a1", "MIG-bcd"])
        assert nvidia.NvidiaDevice(0, "7", fake).describe().uuid_hash == hashed("MIG-bcd")

    @pytest.mark.parametrize("uuid", ["a1", "7"])
    def test_slice_has_nothing_that_is_the_whole_cards(self, monkeypatch, uuid):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        device = nvidia.NvidiaDevice(0, uuid, FakeMig())
        with pytest.raises(NotSupported, match="a MIG slice has no energy counter of its own"):
            device.energy_j()
        with pytest.raises(NotSupported, match="a MIG slice has no busy counter of its own"):
            device.busy_pct()
        for reading in (partial(device.peak_flops, "bfloat16"), device.peak_rates):
            with pytest.raises(NotSupported, match="partitioned"):
                reading()
        # One chip for all slices.
        assert (device.temperature_c(), device.clock_mhz()) == (55, 1980)

    @pytest.mark.parametrize("visible", ["0", "", "MIG-a", "MIG-none"])
    def test_slice_that_nothing_tells_from_others_is_unknown(self, monkeypatch, visible):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        device = nvidia.NvidiaDevice(0, "7", FakeMig())
        with pytest.raises(NotSupported, match="does not say which slice") as caught:
            device.used_bytes()
        assert "CUDA_VISIBLE_DEVICES" in caught.value.unlock
        about = device.describe()
        assert (about.memory_bytes, about.power_cap_w, about.partition) == (None, None, "mig")
        assert about.name == "NVIDIA H100 80GB HBM3 MIG"

    def test_slice_without_the_binding_is_still_a_slice(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pynvml", None)
        device = nvidia.NvidiaDevice(0, "MIG-a1")
        assert device.describe().partition == "mig"
        with pytest.raises(NotSupported, match="MIG slice has no energy counter"):
            device.energy_j()


class FakeAmdSmi(SimpleNamespace):
    """AMD SMI as a script."""

    class AmdSmiException(Exception):
        pass

    class AmdSmiLibraryException(AmdSmiException):
        def __init__(self, err_code):
            super().__init__(f"Error code:\n\t{err_code}")
            self.err_code = err_code

    def __init__(self, **answers):
        super().__init__(calls=[])
        defaults = {
            "amdsmi_get_processor_handle_from_bdf": "handle of c1",
            "amdsmi_get_processor_handles": ["handle of 0"],
            "amdsmi_get_gpu_asic_info": {
                "market_name": "AMD Instinct MI300X",
                "asic_serial": "0x7",
            },
            "amdsmi_get_gpu_vram_usage": {"vram_total": 196_288, "vram_used": 1024},
            "amdsmi_get_gpu_driver_info": {"driver_version": "6.14"},
            "amdsmi_get_gpu_vbios_info": {"version": "022.040"},
            "amdsmi_get_power_cap_info": {"power_cap": 750_000_000},
            "amdsmi_get_gpu_compute_partition": "SPX",
            "amdsmi_get_gpu_device_uuid": "aa-bb",
            "amdsmi_get_energy_count": {
                "energy_accumulator": 2_000_000,
                "counter_resolution": 15.3,
                "timestamp": 1,
            },
            "amdsmi_get_gpu_activity": {"gfx_activity": 64},
        }
        for name, answer in (defaults | answers).items():
            setattr(self, name, self._function(name, answer))

    def _function(self, name, answer):
        def call(*arguments):
            self.calls.append((name, *arguments))
            if isinstance(answer, int):
                raise self.AmdSmiLibraryException(answer)
            return answer

        call.__name__ = name
        return call


class TestAmd:
    def test_readings_have_our_units(self):
        device = amd.AmdDevice(0, "0000:c1:00.0", FakeAmdSmi())
        assert device.energy_j() == pytest.approx(30.6)
        assert device.used_bytes() == 2**30
        assert device.busy_pct() == 64
        assert device.peak_flops("bfloat16") == PEAK_FLOPS["AMD Instinct MI300X"]["bfloat16"]

    def test_the_accumulator_had_another_name(self):
        old = {"power": 2_000_000, "counter_resolution": 15.3, "timestamp": 1}
        smi = FakeAmdSmi(amdsmi_get_energy_count=old)
        assert amd.AmdDevice(0, "0000:c1:00.0", smi).energy_j() == pytest.approx(30.6)

    def test_the_second_die_of_a_module_reports_nothing(self):
        count = {"energy_accumulator": 0, "counter_resolution": 15.3, "timestamp": 1}
        smi = FakeAmdSmi(amdsmi_get_energy_count=count)
        with pytest.raises(NotSupported, match="second die"):
            amd.AmdDevice(0, "0000:c1:00.0", smi).energy_j()

    def test_description(self):
        found = amd.AmdDevice(0, "0000:c1:00.0", FakeAmdSmi()).describe()
        assert (found.vendor, found.name) == ("amd", "AMD Instinct MI300X")
        assert (found.driver, found.vbios, found.partition) == ("6.14", "022.040", "SPX")
        assert found.power_cap_w == 750
        assert found.memory_bytes == 196_288 * 2**20
        assert found.energy_domain == hashed("0x7"), "identities are hashed"

    @pytest.mark.parametrize("partition", ["DPX", "QPX", "CPX"])
    def test_a_partition_has_nothing_that_is_the_whole_devices(self, partition):
        smi = FakeAmdSmi(amdsmi_get_gpu_compute_partition=partition)
        device = amd.AmdDevice(0, "0000:c1:00.0", smi)
        message = f"a {partition} partition has no"
        for reading in (device.energy_j, device.used_bytes, device.busy_pct):
            with pytest.raises(NotSupported, match=message):
                reading()
        with pytest.raises(NotSupported, match="partitioned"):
            device.peak_flops("bfloat16")
        about = device.describe()
        assert (about.memory_bytes, about.power_cap_w, about.partition) == (None, None, partition)

    def test_what_is_not_known_is_none(self):
        smi = FakeAmdSmi(amdsmi_get_gpu_driver_info={"driver_version": "N/A"})
        assert amd.AmdDevice(0, "0000:c1:00.0", smi).describe().driver is None

    @pytest.mark.parametrize(("code", "kind"), [(2, NotSupported), (10, NoPermission)])
    def test_errors_become_ours_in_one_line(self, code, kind):
        with pytest.raises(kind) as caught:
            amd.AmdDevice(0, None, FakeAmdSmi(amdsmi_get_energy_count=code)).energy_j()
        assert "\n" not in str(caught.value)

    def test_idle_graphics_activity_may_be_absent(self):
        smi = FakeAmdSmi(amdsmi_get_gpu_activity={"gfx_activity": "N/A"})
        with pytest.raises(NotSupported):
            amd.AmdDevice(0, None, smi).busy_pct()

    def test_an_import_that_fails_oddly_and_prints_is_one_quiet_reason(
        self, monkeypatch, tmp_path, capsys
    ):
        (tmp_path / "amdsmi.py").write_text(
            "print('noise'); raise KeyError('libamd_smi.so')", encoding="utf-8"
        )
        monkeypatch.syspath_prepend(tmp_path)
        device = amd.AmdDevice(0)
        with pytest.raises(LibraryMissing, match=r"KeyError: 'libamd_smi\.so'"):
            device.energy_j()
        assert capsys.readouterr().out == ""


class TestCpu:
    def test_rapl_packages_are_summed(self, tmp_path):
        zones = (
            *(("intel-rapl:0", "package-0", 5), ("intel-rapl:1", "package-1", 7)),
            *(("intel-rapl:0:0", "dram", 100), ("intel-rapl:2", "psys", 100)),
        )
        for name, zone, joules in zones:
            (tmp_path / name).mkdir()
            (tmp_path / name / "name").write_text(f"{zone}\n", encoding="utf-8")
            (tmp_path / name / "energy_uj").write_text(f"{joules}000000\n", encoding="utf-8")
        assert CpuDevice(tmp_path).energy_j() == 12

    def test_without_rapl_there_is_a_reason_and_a_way_out(self, tmp_path):
        with pytest.raises(NotSupported) as caught:
            CpuDevice(tmp_path).energy_j()
        assert "RAPL" in str(caught.value)
        assert caught.value.unlock

    def test_a_null_object_has_nothing_else(self):
        device = CpuDevice()
        readings = (device.used_bytes, device.busy_pct, device.clock_mhz, device.temperature_c)
        for reading in (*readings, partial(device.peak_flops, "float32")):
            with pytest.raises(Unavailable):
                reading()

    def test_stopwatch(self):
        watch = HostStopwatch()
        for _ in range(3):
            watch.mark()
        assert len(watch.intervals()) == 2
        assert watch.intervals() == []


def test_a_wrong_choice_is_named():
    with pytest.raises(UsageError, match="device='tpu' does not exist"):
        find_device("tpu")


def test_a_peak_belongs_to_a_very_name():
    assert listed_peak("NVIDIA A100-SXM4-80GB", "bfloat16") == 312e12
    assert listed_peak("AMD INSTINCT MI300X", "bfloat16") == 1307.4e12
    # Another clock, one of two devices, a part, an unknown one.
    for name in ("NVIDIA H200 NVL", "AMD Instinct MI250X/MI250", "NVIDIA H200 MIG 1g.18gb", ""):
        assert listed_peak(name, "bfloat16") is None
