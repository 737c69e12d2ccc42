"""Selection of a device, and a machine without vendor libraries."""

import json
import sys

import pytest
from support.scripted_torch import gpu, script_torch

from bench.cli import main
from bench.devices import amd, find_device
from bench.devices.accelerator import TorchProperties
from bench.devices.amd import AmdDevice
from bench.devices.cpu import CpuDevice
from bench.devices.nvidia import NvidiaDevice
from bench.devices.scripted import ScriptedDevice
from bench.doctor import examine, examine_readings
from bench.errors import UsageError

H100 = gpu("NVIDIA H100 80GB HBM3", 132, 85_017_493_504, uuid="1234-5678")
MI250X = [
    gpu("AMD Instinct MI250X", 110, 2**36, bus, gcnArchName="gfx90a:sramecc+:xnack-")
    for bus in (0xC1, 0xC6, 0xC9, 0xCE)
]


@pytest.fixture(autouse=True)
def no_libraries(monkeypatch):
    for name in ("pynvml", "amdsmi"):
        monkeypatch.setitem(sys.modules, name, None)


def test_unknown_device_choice_is_named_in_the_error():
    with pytest.raises(UsageError, match="device='tpu' does not exist"):
        find_device("tpu")


def test_rank_without_its_own_device_is_refused(monkeypatch):
    script_torch(monkeypatch, [H100])
    with pytest.raises(UsageError, match="rank 1 needs a device of its own: torch sees 1"):
        find_device("cuda", 1)


def test_accelerator_is_the_default_when_torch_sees_one(monkeypatch):
    assert isinstance(find_device("cpu"), CpuDevice)
    script_torch(monkeypatch, [H100])
    assert isinstance(find_device(), NvidiaDevice)
    assert isinstance(find_device("cpu"), CpuDevice)
    script_torch(monkeypatch, MI250X, hip=True)
    assert isinstance(find_device(), AmdDevice)


def test_torch_properties_are_read(monkeypatch):
    script_torch(monkeypatch, [H100])
    expected = TorchProperties("NVIDIA H100 80GB HBM3", 85_017_493_504, 132, "", "1234-5678")
    assert TorchProperties.read(0) == expected
    script_torch(monkeypatch, MI250X, hip=True)
    assert TorchProperties.read(1).architecture == "gfx90a"
    nameless = gpu(" ", 104, uuid="00000000-0000-0000-0000-000000000000")
    script_torch(monkeypatch, [nameless], hip=True)
    assert TorchProperties.read(0) == TorchProperties("", 2**36, 104, "", None)


@pytest.mark.parametrize(
    ("ranks", "expected"), [(None, {"c6"}), ("1", {"c6"}), ("3", {"c1", "c6", "c9"})]
)
def test_amd_device_has_the_addresses_of_all_ranks(monkeypatch, ranks, expected):
    arguments = {}

    class Recorded(AmdDevice):
        def __init__(self, index, bdf, smi, properties, case_bdfs):
            super().__init__(index, bdf, smi, properties, case_bdfs)
            arguments.update(bdf=bdf, case=set(case_bdfs))

    monkeypatch.setattr("bench.devices.find.AmdDevice", Recorded)
    for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    if ranks:
        monkeypatch.setenv("WORLD_SIZE", ranks)
    script_torch(monkeypatch, MI250X, hip=True)
    find_device("cuda", 1)
    assert arguments["bdf"] == "0000:c6:00.0"
    assert arguments["case"] == {f"0000:{bus}:00.0" for bus in expected}


def test_energy_of_a_module_is_degraded_with_a_reason():
    findings = {finding.metric: finding for finding in examine(ScriptedDevice("amd"))}
    assert findings["energy_per_step_j"].status == "degraded"
    assert "the other die" in findings["energy_per_step_j"].reason
    findings = {finding.metric: finding for finding in examine(ScriptedDevice("nvidia"))}
    assert findings["energy_per_step_j"].status == "available"


@pytest.mark.parametrize("vendor", ["nvidia", "amd"])
def test_all_readings_of_a_complete_device_are_available(vendor):
    readings = {reading.metric: reading for reading in examine_readings(ScriptedDevice(vendor))}
    lacking = {name for name, reading in readings.items() if reading.status != "available"}
    assert lacking == (set() if vendor == "amd" else {"energy_time_s"})


class TestDoctorWithoutLibraries:
    def doctor(self, capsys, *options):
        assert main(["doctor", *options]) == 0
        return capsys.readouterr().out

    @pytest.mark.parametrize(
        ("devices", "hip", "name", "unlock"),
        [
            ([H100], False, "NVIDIA H100 80GB HBM3 (nvidia)", "pip install 'foldperf[nvidia]'"),
            (MI250X, True, "AMD Instinct MI250X (amd)", "pip install 'foldperf[amd]'"),
        ],
    )
    def test_doctor_names_the_device_and_the_extra_to_install(
        self, monkeypatch, capsys, devices, hip, name, unlock
    ):
        script_torch(monkeypatch, devices, hip=hip)
        text = self.doctor(capsys)
        assert f"device    {name}\n" in text
        library = text.split("library ")[1].splitlines()
        assert "not installed" in library[0]
        assert unlock in library[1]
        assert "available peak_flops" in text
        assert "available model_flop_utilization" in text
        assert "missing   energy_j" in text

    def test_doctor_json_has_the_same_remedies(self, monkeypatch, capsys):
        script_torch(monkeypatch, [H100])
        output = json.loads(self.doctor(capsys, "--json"))
        assert output["device"]["name"] == "NVIDIA H100 80GB HBM3"
        assert output["device"]["memory_bytes"] == 85_017_493_504
        assert output["library"]["status"] == "missing"
        states = {reading["metric"]: reading["status"] for reading in output["readings"]}
        assert states["peak_rates"] == "available"
        assert {name for name, state in states.items() if state == "missing"} == {
            *("energy_j", "energy_time_s", "busy_pct", "activity_pct", "throttle_reasons"),
            *("temperature_c", "clock_mhz", "used_bytes"),
        }

    def test_doctor_reports_that_the_amd_library_needs_rocm(self, monkeypatch, capsys):
        script_torch(monkeypatch, MI250X, hip=True)
        assert "libamd_smi.so" in self.doctor(capsys)
        assert "libamd_smi.so" in amd.AmdDevice.library_unlock
