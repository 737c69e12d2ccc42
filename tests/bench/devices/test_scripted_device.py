"""Simulated accelerator: its readings obey the laws of a real one."""

import time

import pytest

from bench.devices.scripted import NAMES, ScriptedDevice
from refsys.costs.devices import listed

vendors = pytest.mark.parametrize("vendor", NAMES)


@vendors
def test_energy_of_a_power_curve_advances_in_ticks(monkeypatch, vendor):
    clock = [50.0]
    monkeypatch.setattr("bench.devices.scripted.perf_counter", lambda: clock[0])
    device = ScriptedDevice(vendor, curve=lambda moment: 100.0 if moment < 51.0 else 200.0)
    readings = []
    for _ in range(400):
        clock[0] += 0.005
        readings.append(device.energy_reading())
    assert readings[-1].joules == pytest.approx(1.0 * 100 + 1.0 * 200)
    assert len({reading.joules for reading in readings}) == 21, "one value a tick"
    if vendor == "amd":
        assert readings[-1].device_s == pytest.approx(2.0)
        slopes = {
            round((late.joules - early.joules) / (late.device_s - early.device_s))
            for early, late in zip(readings, readings[20:], strict=False)
        }
        assert slopes <= {100, 150, 200}
    else:
        assert all(reading.device_s is None for reading in readings)


@vendors
def test_busy_and_idle_power_differ(vendor):
    device = ScriptedDevice(vendor, tick_s=0.05)
    readings = {}
    for state in ("work", "wait"):
        device.busy_pct()
        deadline = time.perf_counter() + 0.2
        while time.perf_counter() < deadline:
            if state == "wait":
                time.sleep(0.2)
        readings[state] = (device.busy_pct(), device.temperature_c(), device.clock_mhz())
    assert all(work > wait for work, wait in zip(readings["work"], readings["wait"], strict=True))


@vendors
def test_description_and_peaks_equal_those_of_a_real_device(vendor):
    device = ScriptedDevice(vendor)
    assert device.describe().vendor == vendor
    entry = listed(NAMES[vendor])
    assert device.peak_flops("bfloat16") == entry.flops["bfloat16"]
    assert device.peak_rates() == entry.rates()
    assert device.describe().energy_scope == entry.energy_scope


@vendors
def test_capture_replays_the_work(vendor):
    calls = []
    replay = ScriptedDevice(vendor).capture(lambda: calls.append(1))
    before = len(calls)
    replay()
    assert len(calls) == before + 1
