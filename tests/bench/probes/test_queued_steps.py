"""Batches of queued steps: exact number, one synchronization, bounded queue."""

import pytest
from support.counted_energy import PoweredDevice, QueueEvent

from bench.devices.cpu import CpuDevice
from bench.probes.queued_steps import QueuedSteps, event_maker
from bench.run.ranks import ALONE


def rows_of(device, host_s, device_s, events=True):
    make = (lambda: QueueEvent(device)) if events else None
    work = device.work(host_s, device_s)
    return QueuedSteps(work, device, ALONE, make, device.clock)


@pytest.mark.parametrize("device_s", [1e-5, 1e-3, 0.06, 1.0])
def test_host_is_ahead_by_a_bounded_time_or_few_steps(device_s):
    device = PoweredDevice()
    rows = rows_of(device, 1e-6, device_s)
    rows.estimate()
    launched, waits = len(device.queue.launches), device.waits
    device.queue.most_ahead = 0.0
    rows.run(rows.count_for(5.0))
    assert len(device.queue.launches) - launched == pytest.approx(5.0 / device_s, rel=0.1, abs=1)
    assert device.waits == waits + 1
    assert device.clock() >= device.queue.device_free
    # A few steps beyond the time bound, so that the device never waits.
    assert device.queue.most_ahead <= max(0.3, 3.1 * device_s)
    assert device.queue.most_ahead >= min(0.1, 1.9 * device_s)


def test_mutant_without_events_runs_ahead():
    device = PoweredDevice()
    rows = rows_of(device, 1e-6, 1e-3, events=False)
    rows.estimate()
    rows.run(rows.count_for(5.0))
    assert device.queue.most_ahead > 4


def test_device_is_busy_throughout_a_batch():
    device = PoweredDevice()
    rows = rows_of(device, 4e-4, 5e-4)
    rows.estimate()
    start = device.clock()
    rows.run(2000)
    assert device.clock() - start == pytest.approx(2000 * 5e-4, rel=0.01)


def test_cpu_needs_no_events():
    assert event_maker(CpuDevice()) is None
