"""Host device and its RAPL counters."""

from functools import partial

import pytest

from bench.devices import Unavailable
from bench.devices.cpu import CpuDevice
from bench.devices.device import HostStopwatch, NotSupported


def test_rapl_packages_are_summed(tmp_path):
    zones = (
        *(("intel-rapl:0", "package-0", 5), ("intel-rapl:1", "package-1", 7)),
        *(("intel-rapl:0:0", "dram", 100), ("intel-rapl:2", "psys", 100)),
    )
    for name, zone, joules in zones:
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(f"{zone}\n", encoding="utf-8")
        (tmp_path / name / "energy_uj").write_text(f"{joules}000000\n", encoding="utf-8")
    assert CpuDevice(tmp_path).energy_j() == 12
    assert CpuDevice(tmp_path).energy_reading() == (12, None)


def test_energy_without_rapl_has_a_reason_and_a_remedy(tmp_path):
    with pytest.raises(NotSupported) as caught:
        CpuDevice(tmp_path).energy_j()
    assert "RAPL" in str(caught.value)
    assert caught.value.unlock


def test_cpu_device_has_no_other_reading():
    device = CpuDevice()
    readings = (
        *(device.used_bytes, device.busy_pct, device.clock_mhz, device.temperature_c),
        *(device.activity_pct, device.throttle_reasons, device.peak_rates),
        *(partial(device.peak_flops, "float32"), partial(device.capture, print)),
    )
    for reading in readings:
        with pytest.raises(Unavailable):
            reading()


def test_stopwatch_returns_the_times_between_marks():
    watch = HostStopwatch()
    for _ in range(3):
        watch.mark()
    assert len(watch.intervals()) == 2
    assert watch.intervals() == []
