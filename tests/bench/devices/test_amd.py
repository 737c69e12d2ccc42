"""AMD devices against a scripted AMD SMI."""

import sys

import pytest
from support.fake_amdsmi import BDF, ENERGY, FakeAmdSmi

from bench.devices.accelerator import TorchProperties
from bench.devices.amd import UNNAMED_REASON, AmdDevice
from bench.devices.device import LibraryMissing, NoPermission, NotSupported, hashed
from bench.devices.peaks import listed

MI300X = TorchProperties("AMD Instinct MI300X", 2**37, 304, "gfx942", "4242")


def device(smi=None, **answers):
    return AmdDevice(0, BDF, smi or FakeAmdSmi(**answers))


def test_readings_have_our_units():
    own = device()
    assert own.energy_j() == pytest.approx(30.6)
    assert own.energy_reading().device_s == 5.0
    assert own.used_bytes() == 2**30
    assert own.busy_pct() == 64
    assert own.activity_pct() == {"gfx": 64.0, "dram": 21.0}
    assert own.temperature_c() == 71
    assert own.clock_mhz() == 2100
    assert own.throttle_reasons() == {"power_cap"}
    assert own.peak_flops("bfloat16") == listed("AMD Instinct MI300X").flops["bfloat16"]


def test_energy_is_accumulator_times_resolution_without_loss():
    # Six years of 750 W, at the resolution of the MI300X.
    ticks = 9_000_000_000_000_000
    own = device(amdsmi_get_energy_count=ENERGY | {"energy_accumulator": ticks})
    later = device(amdsmi_get_energy_count=ENERGY | {"energy_accumulator": ticks + 1_000})
    assert later.energy_j() - own.energy_j() == pytest.approx(15.3e-3, rel=0.01)


@pytest.mark.parametrize("timestamp", [0, None, 2**64 - 1, "N/A"])
def test_counter_without_a_time_has_none(timestamp):
    own = device(amdsmi_get_energy_count=ENERGY | {"timestamp": timestamp})
    assert own.energy_reading().device_s is None


def test_fields_that_had_other_names_are_read():
    old = {"power": 2_000_000, "counter_resolution": 15.3, "timestamp": 1}
    own = device(amdsmi_get_energy_count=old, amdsmi_get_clock_info={"cur_clk": 1700})
    assert own.energy_j() == pytest.approx(30.6)
    assert own.clock_mhz() == 1700


@pytest.mark.parametrize("ticks", [0, None, 2**64 - 1])
def test_counter_that_does_not_count_is_refused(ticks):
    own = device(amdsmi_get_energy_count=ENERGY | {"energy_accumulator": ticks})
    with pytest.raises(NotSupported, match="accumulator is absent or zero"):
        own.energy_j()


@pytest.mark.parametrize("value", [71, 71_000])
def test_temperature_is_in_degrees_whatever_the_version_gives(value):
    assert device(amdsmi_get_temp_metric=value).temperature_c() == 71


def test_hottest_point_and_shader_clock_are_asked_for():
    smi = FakeAmdSmi()
    own = device(smi)
    own.temperature_c()
    assert smi.calls[-1][2:] == (smi.AmdSmiTemperatureType.HOTSPOT, 0)
    own.clock_mhz()
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
    def test_older_device_says_that_a_limit_holds_and_not_which(self, flags, reasons):
        status = dict(zip(("indep_throttle_status", "throttle_status"), flags, strict=True))
        own = device(amdsmi_get_violation_status=2, amdsmi_get_gpu_metrics_info=status)
        assert own.throttle_reasons() == reasons

    def test_low_utilization_is_no_reason(self):
        own = device(
            amdsmi_get_violation_status={"active_low_utilization": True, "active_ppt_pwr": False}
        )
        assert own.throttle_reasons() == frozenset()

    def test_device_without_any_status_is_not_supported(self):
        with pytest.raises(NotSupported, match="no throttle status"):
            device(amdsmi_get_violation_status={"active_ppt_pwr": "N/A"}).throttle_reasons()


def test_description():
    about = device().describe()
    assert (about.vendor, about.name) == ("amd", "AMD Instinct MI300X")
    assert (about.driver, about.vbios, about.partition) == ("6.14", "022.040", "SPX")
    assert about.power_cap_w == 750
    assert about.memory_bytes == 196_288 * 2**20
    assert about.uuid_hash == about.energy_domain == hashed("aa-bb"), "identities are hashed"
    assert about.energy_scope == "device"


def test_energy_of_an_apu_is_that_of_its_socket():
    asic = {"market_name": "AMD Instinct MI300A"}
    about = device(amdsmi_get_gpu_asic_info=asic).describe()
    assert (about.energy_scope, about.energy_domain) == ("module", about.uuid_hash)


@pytest.mark.parametrize("partition", ["DPX", "QPX", "CPX"])
def test_partition_has_nothing_that_is_the_whole_devices(partition):
    smi = FakeAmdSmi(amdsmi_get_gpu_compute_partition=partition)
    own = AmdDevice(0, BDF, smi, MI300X._replace(memory_bytes=2**34, units=38))
    for reading in (own.energy_j, own.used_bytes, own.busy_pct, own.activity_pct):
        with pytest.raises(NotSupported, match=f"a {partition} partition has no"):
            reading()
    with pytest.raises(NotSupported, match="partitioned"):
        own.peak_flops("bfloat16")
    about = own.describe()
    assert (about.power_cap_w, about.partition, about.energy_domain) == (None, partition, None)
    assert about.memory_bytes == 2**34, "torch knows the partition's own memory"


def test_unknown_fields_are_none():
    smi = FakeAmdSmi(amdsmi_get_gpu_driver_info={"driver_version": "N/A"})
    assert device(smi).describe().driver is None
    with pytest.raises(NotSupported, match="no graphics activity"):
        device(amdsmi_get_gpu_activity={"gfx_activity": "N/A"}).busy_pct()


@pytest.mark.parametrize(
    ("answer", "kind"), [(2, NotSupported), (10, NoPermission), (None, NotSupported)]
)
def test_errors_become_ours_in_one_line(answer, kind):
    with pytest.raises(kind) as caught:
        device(amdsmi_get_energy_count=answer).energy_j()
    assert "\n" not in str(caught.value)


class TestWithoutTheLibrary:
    def test_import_that_fails_oddly_and_prints_is_one_quiet_reason(
        self, monkeypatch, tmp_path, capsys
    ):
        (tmp_path / "amdsmi.py").write_text(
            "print('noise'); raise KeyError('libamd_smi.so')", encoding="utf-8"
        )
        monkeypatch.delitem(sys.modules, "amdsmi", raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        own = AmdDevice(0)
        with pytest.raises(LibraryMissing, match=r"KeyError: 'libamd_smi\.so'") as caught:
            own.energy_j()
        assert "amd-smi-lib" in caught.value.unlock
        assert "pip install" not in caught.value.unlock, "the package is there"
        assert capsys.readouterr().out == ""

    def test_every_reading_says_how_to_get_it(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "amdsmi", None)
        own = AmdDevice(0, BDF, None, MI300X)
        for reading in (
            *(own.energy_j, own.energy_reading, own.used_bytes, own.busy_pct, own.activity_pct),
            *(own.throttle_reasons, own.temperature_c, own.clock_mhz),
        ):
            with pytest.raises(LibraryMissing) as caught:
                reading()
            assert "pip install 'foldperf[amd]'" in caught.value.unlock
            assert "libamd_smi.so" in caught.value.unlock

    def test_name_memory_identity_and_peaks_come_from_torch(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "amdsmi", None)
        own = AmdDevice(0, BDF, None, MI300X)
        about = own.describe()
        assert (about.name, about.memory_bytes) == ("AMD Instinct MI300X", 2**37)
        assert about.uuid_hash
        assert own.peak_flops("float16") == listed("AMD Instinct MI300X").flops["float16"]
        part = AmdDevice(0, BDF, None, MI300X._replace(units=38))
        with pytest.raises(NotSupported, match="38 of the 304"):
            part.peak_flops("float16")

    def test_device_without_a_name_has_that_of_its_architecture(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "amdsmi", None)
        own = AmdDevice(0, BDF, None, MI300X._replace(name=""))
        assert own.describe().name == "AMD GPU (gfx942) of unknown name"
