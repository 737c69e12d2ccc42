"""Readings of a real accelerator. Run with ``python -m pytest tests/gpu``."""

import time

import pytest
import torch

from bench.devices import Unavailable, find_device
from refsys.costs.devices import listed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no accelerator")


@pytest.fixture(scope="module")
def device():
    accelerator = find_device("cuda")
    if accelerator.library_error:
        pytest.skip(f"{accelerator.library_error}; {accelerator.library_error.unlock}")
    return accelerator


def work(seconds):
    """Multiply matrices for a number of seconds."""
    matrix = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        for _ in range(20):
            torch.mm(matrix, matrix)
        torch.cuda.synchronize()


def had(reading):
    """Return a reading; skip the test with the reason if the device does not have it."""
    try:
        return reading()
    except Unavailable as error:
        pytest.skip(str(error))


def test_name_and_memory_agree_with_torch(device):
    properties = torch.cuda.get_device_properties(0)
    about = device.describe()
    assert about.memory_bytes == pytest.approx(properties.total_memory, rel=0.05)
    entry = listed(about.name, properties.multi_processor_count)
    if entry and entry.units:
        assert entry.units == properties.multi_processor_count
        assert device.peak_flops("bfloat16") == entry.flops["bfloat16"]


def test_energy_grows_by_a_plausible_power(device):
    before = had(device.energy_reading)
    start = time.perf_counter()
    work(3.0)
    after = device.energy_reading()
    power = (after.joules - before.joules) / (time.perf_counter() - start)
    assert 50 < power < 2000
    if before.device_s is not None:
        assert after.device_s - before.device_s == pytest.approx(3.0, abs=0.5)


def test_activity_and_busy_share_follow_work(device):
    had(device.activity_pct)
    work(2.0)
    activity, busy = device.activity_pct(), device.busy_pct()
    assert all(0 <= percent <= 100 for percent in activity.values())
    assert max(activity.values()) > 20
    assert busy > 50


def test_temperature_clock_and_throttle_reasons_are_plausible(device):
    work(0.5)
    assert 10 < had(device.temperature_c) < 120
    assert 100 < had(device.clock_mhz) < 4000
    assert all(isinstance(reason, str) for reason in had(device.throttle_reasons))
