"""Slices of an NVIDIA card in MIG mode, with a scripted NVML."""

import sys
from functools import partial

import pytest
from support.fake_nvml import FakeMig, FakeNvml

from bench.devices.accelerator import TorchProperties
from bench.devices.device import NotSupported, hashed
from bench.devices.nvidia import NvidiaDevice


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
def test_slice_has_its_own_memory_and_identity(monkeypatch, uuid, visible):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    device = NvidiaDevice(0, uuid, FakeMig())
    about = device.describe()
    assert about.memory_bytes == 19_968 * 2**20
    assert device.used_bytes() == 19_968 * 2**19
    assert about.uuid_hash == hashed("MIG-a2")
    assert (about.name, about.partition) == ("NVIDIA H100 80GB HBM3 MIG a2", "mig")
    assert (about.power_cap_w, about.energy_domain, about.energy_scope) == (None, None, None)
    assert (about.vbios, about.ecc) == ("96.00", True)


def test_slice_of_a_rank_follows_the_order_of_visible_devices(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a2,MIG-a1")
    device = NvidiaDevice(1, "7", FakeMig())
    assert device.describe().uuid_hash == hashed("MIG-a1")


def test_slice_is_the_only_one_or_matches_a_unique_prefix(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    only = NvidiaDevice(0, "7", FakeMig(["MIG-b"]))
    assert only.describe().uuid_hash == hashed("MIG-b")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-b")
    fake = FakeMig(["MIG-a1", "MIG-bcd"])
    assert NvidiaDevice(0, "7", fake).describe().uuid_hash == hashed("MIG-bcd")


@pytest.mark.parametrize("uuid", ["a1", "7"])
def test_slice_has_no_reading_of_the_whole_card(monkeypatch, uuid):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    device = NvidiaDevice(0, uuid, FakeMig())
    for reading, quantity in (
        (device.energy_j, "energy counter"),
        (device.busy_pct, "busy counter"),
        (device.activity_pct, "performance monitor"),
    ):
        with pytest.raises(NotSupported, match=f"a MIG slice has no {quantity} of its own"):
            reading()
    for reading in (partial(device.peak_flops, "bfloat16"), device.peak_rates):
        with pytest.raises(NotSupported, match="partitioned"):
            reading()


def test_slice_has_the_temperature_and_clock_of_the_chip(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a1")
    device = NvidiaDevice(0, "7", FakeMig())
    assert (device.temperature_c(), device.clock_mhz()) == (55, 1980)
    assert device.throttle_reasons() == {"sw_power_cap", "hw_thermal_slowdown"}


@pytest.mark.parametrize("visible", ["0", "", "MIG-a", "MIG-none"])
def test_ambiguous_slice_is_unknown(monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    device = NvidiaDevice(0, "7", FakeMig())
    with pytest.raises(NotSupported, match="does not say which slice") as caught:
        device.used_bytes()
    assert "CUDA_VISIBLE_DEVICES" in caught.value.unlock
    about = device.describe()
    assert (about.memory_bytes, about.power_cap_w, about.partition) == (None, None, "mig")
    assert about.name == "NVIDIA H100 80GB HBM3 MIG"


def test_slice_is_recognized_without_the_binding(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    device = NvidiaDevice(0, "MIG-a1", None, TorchProperties("NVIDIA H100", 2**33, 16))
    about = device.describe()
    assert (about.partition, about.memory_bytes) == ("mig", 2**33)
    with pytest.raises(NotSupported, match="MIG slice has no energy counter"):
        device.energy_j()


def test_card_of_the_same_name_in_mig_mode_has_no_peak():
    device = NvidiaDevice(0, None, FakeNvml(nvmlDeviceGetMigMode=(1, 1)))
    for reading in (partial(device.peak_flops, "bfloat16"), device.peak_rates):
        with pytest.raises(NotSupported, match="partitioned"):
            reading()
