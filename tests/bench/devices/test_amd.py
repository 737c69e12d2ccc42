"""AMD devices with a scripted AMD SMI."""

import sys

import pytest
from support.fake_amdsmi import BDF, ENERGY, FakeAmdSmi

from bench.devices.accelerator import TorchProperties
from bench.devices.amd import UNNAMED_REASON, AmdDevice
from bench.devices.device import LibraryMissing, NoPermission, NotSupported, hashed
from refsys.costs.devices import listed

MI300X = TorchProperties("AMD Instinct MI300X", 2**37, 304, "gfx942", "4242")


def device(smi=None, **answers):
    return AmdDevice(0, BDF, smi or FakeAmdSmi(**answers))


def test_readings_have_the_units_of_the_interface():
    amd = device()
    assert amd.energy_j() == pytest.approx(30.6)
    assert amd.energy_reading().device_s == 5.0
    assert amd.used_bytes() == 2**30
    assert amd.busy_pct() == 64
    assert amd.activity_pct() == {"gfx": 64.0, "dram": 21.0}
    assert amd.temperature_c() == 71
    assert amd.clock_mhz() == 2100
    assert amd.throttle_reasons() == {"power_cap"}
    assert amd.peak_flops("bfloat16") == listed("AMD Instinct MI300X").flops["bfloat16"]


def test_energy_is_accumulator_times_resolution_without_loss():
    # Six years of 750 W, at the resolution of the MI300X.
    ticks = 9_000_000_000_000_000
    amd = device(amdsmi_get_energy_count=ENERGY | {"energy_accumulator": ticks})
    later = device(amdsmi_get_energy_count=ENERGY | {"energy_accumulator": ticks + 1_000})
    assert later.energy_j() - amd.energy_j() == pytest.approx(15.3e-3, rel=0.01)


@pytest.mark.parametrize("timestamp", [0, None, 2**64 - 1, "N/A"])
def test_reading_without_a_time_stamp_has_no_device_time(timestamp):
    amd = device(amdsmi_get_energy_count=ENERGY | {"timestamp": timestamp})
    assert amd.energy_reading().device_s is None


def test_fields_of_older_versions_are_read():
    old = {"power": 2_000_000, "counter_resolution": 15.3, "timestamp": 1}
    amd = device(amdsmi_get_energy_count=old, amdsmi_get_clock_info={"cur_clk": 1700})
    assert amd.energy_j() == pytest.approx(30.6)
    assert amd.clock_mhz() == 1700


@pytest.mark.parametrize("ticks", [0, None, 2**64 - 1])
def test_energy_counter_of_zero_is_refused(ticks):
    amd = device(amdsmi_get_energy_count=ENERGY | {"energy_accumulator": ticks})
    with pytest.raises(NotSupported, match="accumulator is absent or zero"):
        amd.energy_j()


@pytest.mark.parametrize("value", [71, 71_000])
def test_temperature_is_in_degrees_for_every_version(value):
    assert device(amdsmi_get_temp_metric=value).temperature_c() == 71


def test_queries_use_the_hottest_point_and_the_shader_clock():
    smi = FakeAmdSmi()
    amd = device(smi)
    amd.temperature_c()
    assert smi.calls[-1][2:] == (smi.AmdSmiTemperatureType.HOTSPOT, 0)
    amd.clock_mhz()
    assert smi.calls[-1][2:] == (smi.AmdSmiClkType.GFX,)


class TestThrottling:
    @pytest.mark.parametrize(
        ("flags", "reasons"),
        [
            ((False, False), frozenset()),
            ((True, "N/A"), {UNNAMED_REASON}),
            ((0, 4), {UNNAMED_REASON}),
        ],
    )
    def test_older_device_has_an_unnamed_throttle_reason(self, flags, reasons):
        status = dict(zip(("indep_throttle_status", "throttle_status"), flags, strict=True))
        amd = device(amdsmi_get_violation_status=2, amdsmi_get_gpu_metrics_info=status)
        assert amd.throttle_reasons() == reasons

    def test_low_utilization_is_not_a_throttle_reason(self):
        amd = device(
            amdsmi_get_violation_status={"active_low_utilization": True, "active_ppt_pwr": False}
        )
        assert amd.throttle_reasons() == frozenset()

    def test_device_without_any_status_is_not_supported(self):
        with pytest.raises(NotSupported, match="no throttle status"):
            device(amdsmi_get_violation_status={"active_ppt_pwr": "N/A"}).throttle_reasons()


def test_description_has_every_field_of_the_driver():
    about = device().describe()
    assert (about.vendor, about.name) == ("amd", "AMD Instinct MI300X")
    assert (about.driver, about.vbios, about.partition) == ("6.14", "022.040", "SPX")
    assert about.power_cap_w == 750
    assert about.memory_bytes == 196_288 * 2**20
    assert about.uuid_hash == about.energy_domain == hashed("aa-bb"), "identities are hashed"
    assert about.energy_scope == "device"


def test_energy_scope_of_an_apu_is_module():
    asic = {"market_name": "AMD Instinct MI300A"}
    about = device(amdsmi_get_gpu_asic_info=asic).describe()
    assert (about.energy_scope, about.energy_domain) == ("module", about.uuid_hash)


@pytest.mark.parametrize("partition", ["DPX", "QPX", "CPX"])
def test_partition_has_no_reading_of_the_whole_device(partition):
    smi = FakeAmdSmi(amdsmi_get_gpu_compute_partition=partition)
    amd = AmdDevice(0, BDF, smi, MI300X._replace(memory_bytes=2**34, units=38))
    for reading in (amd.energy_j, amd.used_bytes, amd.busy_pct, amd.activity_pct):
        with pytest.raises(NotSupported, match=f"a {partition} partition has no"):
            reading()
    with pytest.raises(NotSupported, match="partitioned"):
        amd.peak_flops("bfloat16")
    about = amd.describe()
    assert (about.power_cap_w, about.partition, about.energy_domain) == (None, partition, None)
    assert about.memory_bytes == 2**34, "torch knows the partition's own memory"


def test_unknown_fields_of_the_description_are_none():
    smi = FakeAmdSmi(amdsmi_get_gpu_driver_info={"driver_version": "N/A"})
    assert device(smi).describe().driver is None
    with pytest.raises(NotSupported, match="no graphics activity"):
        device(amdsmi_get_gpu_activity={"gfx_activity": "N/A"}).busy_pct()


@pytest.mark.parametrize(
    ("answer", "kind"), [(2, NotSupported), (10, NoPermission), (None, NotSupported)]
)
def test_library_errors_become_unavailable_in_one_line(answer, kind):
    with pytest.raises(kind) as caught:
        device(amdsmi_get_energy_count=answer).energy_j()
    assert "\n" not in str(caught.value)


class TestWithoutTheLibrary:
    def test_failing_import_is_one_reason_without_output(self, monkeypatch, tmp_path, capsys):
        (tmp_path / "amdsmi.py").write_text(
            "print('noise'); raise KeyError('libamd_smi.so')", encoding="utf-8"
        )
        monkeypatch.delitem(sys.modules, "amdsmi", raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        amd = AmdDevice(0)
        with pytest.raises(LibraryMissing, match=r"KeyError: 'libamd_smi\.so'") as caught:
            amd.energy_j()
        assert "amd-smi-lib" in caught.value.unlock
        assert "pip install" not in caught.value.unlock, "the package is there"
        assert capsys.readouterr().out == ""

    def test_every_reading_without_the_library_has_a_remedy(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "amdsmi", None)
        amd = AmdDevice(0, BDF, None, MI300X)
        for reading in (
            *(amd.energy_j, amd.energy_reading, amd.used_bytes, amd.busy_pct, amd.activity_pct),
            *(amd.throttle_reasons, amd.temperature_c, amd.clock_mhz),
        ):
            with pytest.raises(LibraryMissing) as caught:
                reading()
            assert "pip install 'foldperf[amd]'" in caught.value.unlock
            assert "libamd_smi.so" in caught.value.unlock

    def test_name_memory_identity_and_peaks_come_from_torch(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "amdsmi", None)
        amd = AmdDevice(0, BDF, None, MI300X)
        about = amd.describe()
        assert (about.name, about.memory_bytes) == ("AMD Instinct MI300X", 2**37)
        assert about.uuid_hash
        assert amd.peak_flops("float16") == listed("AMD Instinct MI300X").flops["float16"]
        part = AmdDevice(0, BDF, None, MI300X._replace(units=38))
        with pytest.raises(NotSupported, match="38 of the 304"):
            part.peak_flops("float16")

    def test_unnamed_device_is_named_by_its_architecture(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "amdsmi", None)
        amd = AmdDevice(0, BDF, None, MI300X._replace(name=""))
        assert amd.describe().name == "AMD GPU (gfx942) of unknown name"
