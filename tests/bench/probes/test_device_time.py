"""Device time and host time: graph replay, the profiler's sum, cache flushes, CPU."""

import pytest
import torch
from support.queued_device import QueuedDevice

from bench.devices.cpu import CpuDevice
from bench.probes import device_time
from bench.probes.device_events import DeviceEvents
from bench.probes.device_time import host_samples, work_times


@pytest.fixture
def make_device(monkeypatch):
    def make(**limits):
        device = QueuedDevice(**limits)
        monkeypatch.setattr(device_time, "perf_counter", device.clock)
        return device

    return make


@pytest.mark.parametrize("host_s", [1e-6, 1e-4, 1e-2])
@pytest.mark.parametrize("device_s", [2e-6, 1e-4, 5e-3])
def test_device_time_does_not_depend_on_the_host(make_device, host_s, device_s):
    device = make_device()
    times = work_times(device.work(host_s, device_s), device)
    assert times.device.value == pytest.approx(device_s, rel=0.05)
    assert times.device.n == 20
    assert times.host.value == pytest.approx(host_s)
    assert times.eager.value == pytest.approx(max(host_s, device_s), rel=0.2)


def test_short_work_is_captured_several_times_in_one_graph(make_device):
    device = make_device()
    times = work_times(device.work(1e-5, 2e-6), device)
    assert "graph of 40 calls" in times.device.method
    single = make_device(most_captured=1)
    alone = work_times(single.work(1e-5, 2e-6), single)
    assert "graph of 1 calls" in alone.device.method
    assert alone.device.value > 2 * times.device.value


def test_flush_precedes_every_sample_and_is_not_timed(make_device):
    device = make_device()
    work = device.work(1e-6, 1e-4, "work")
    times = work_times(work, device, samples=7, flush=device.work(1e-6, 3e-3, "flush"))
    assert times.device.value == pytest.approx(1e-4)
    assert times.eager.value == pytest.approx(1e-4)
    assert times.host.value == pytest.approx(1e-6)
    names = "".join({"work": "w", "flush": "f", "replay": "r"}[n] for n in device.queue.launches)
    assert "fr" * 7 in names
    assert names.endswith("fw" * 7)
    assert "caches flushed" in times.device.method


def test_device_time_is_the_profiled_sum_when_capture_is_refused(make_device, monkeypatch):
    device = make_device(refusal="the work synchronizes")
    calls = 0

    def profile_work(work, _):
        nonlocal calls
        before = len(device.queue.launches)
        work()
        calls = len(device.queue.launches) - before
        return DeviceEvents(kernels={}, copies=0, seconds=calls * 1e-4, **launches)

    launches = {"host_launches": None, "graph_launches": None}
    monkeypatch.setattr(device_time, "profile_work", profile_work)
    time = work_times(device.work(1e-2, 1e-4), device).device
    assert time.value == pytest.approx(1e-4)
    assert (time.quality, time.flags) == ("degraded", ("not replayed: the work synchronizes",))
    assert "profiler" in time.method
    monkeypatch.setattr(
        device_time,
        "profile_work",
        lambda *_: DeviceEvents(kernels={}, copies=0, seconds=0.0, **launches),
    )
    lost = work_times(device.work(1e-2, 1e-4), device).device
    assert lost.value is None
    assert "saw no kernel" in lost.reason


def test_slow_work_takes_fewer_samples(make_device):
    device = make_device()
    times = work_times(device.work(1e-3, 1.9), device)
    assert (times.device.n, times.eager.n, times.host.n) == (5, 5, 5)
    slower = work_times(device.work(1e-3, 30.0), device)
    assert slower.device.n == 3


def test_host_times_of_parts_start_from_an_idle_device(make_device):
    device = make_device()
    parts = [device.work(1e-4, 1.0), device.work(3e-4, 1.0)]
    first, second = host_samples(parts, device, 4)
    assert first == pytest.approx([1e-4] * 4)
    assert second == pytest.approx([3e-4] * 4)
    assert device.waits == 5


def test_cpu_has_no_device_time():
    x = torch.ones(64, 64)
    times = work_times(lambda: x @ x, CpuDevice(), samples=5, batch_s=1e-3)
    assert times.device.value is None
    assert "host" in times.device.reason
    assert times.host.value > 0
    assert 0 < times.eager.value < 1e-2
    assert times.eager.n == 5
