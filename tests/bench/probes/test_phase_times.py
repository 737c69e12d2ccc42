"""Device and host time of a program, in total and by phase."""

import pytest
from support.layered import Layers
from support.queued_device import QueuedDevice

from bench.devices.cpu import CpuDevice
from bench.probes import device_time
from bench.probes.phase_times import DEVICE_AND_HOST_TIMES, device_and_host_times, difference
from bench.records.metrics import Value, missing


class Phased(Layers):
    """Program whose phases take given times on host and device of a queued device."""

    repeatable = True

    def __init__(self, device, phases):
        super().__init__()
        self.phases = tuple(phases)
        self.works = {name: device.work(*times) for name, times in phases.items()}

    def run(self, phase):
        self.works[phase]()


@pytest.fixture
def device(monkeypatch):
    device = QueuedDevice()
    monkeypatch.setattr(device_time, "perf_counter", device.clock)
    return device


def test_device_and_host_times_are_separated_by_phase(device):
    program = Phased(device, {"forward": (3e-4, 1e-5), "backward": (5e-4, 4e-5)})
    values = {name: value.value for name, value in device_and_host_times(program, device).items()}
    expected = {
        "device_time_s": 5e-5,
        "device_time_s.forward": 1e-5,
        "device_time_s.backward": 4e-5,
        "host_time_s": 8e-4,
        "host_time_s.forward": 3e-4,
        "host_time_s.backward": 5e-4,
    }
    assert values == {name: pytest.approx(value, rel=0.05) for name, value in expected.items()}
    assert device.queue.launches[-1] == "work"


def test_single_phase_has_no_parts(device):
    values = device_and_host_times(Phased(device, {"forward": (3e-4, 1e-5)}), device)
    assert values.keys() == set(DEVICE_AND_HOST_TIMES)
    assert values["device_time_s"].value == pytest.approx(1e-5, rel=0.05)


def test_device_and_host_times_are_missing_on_cpu_and_for_unrepeatable_programs(device):
    for values in (
        device_and_host_times(Phased(device, {"forward": (1, 1)}), CpuDevice()),
        device_and_host_times(Layers(), device),
    ):
        assert values.keys() == set(DEVICE_AND_HOST_TIMES)
        assert all(value.value is None and value.reason for value in values.values())
    assert not device.queue.launches


def test_difference_combines_both_intervals():
    whole = Value(10.0, "graph", n=9, ci=(9.6, 10.3, 0.96))
    part = Value(4.0, "graph", n=7, ci=(3.6, 4.3, 0.95), flags=("f",))
    remainder = difference(whole, part)
    assert (remainder.value, remainder.n, remainder.flags) == (6.0, 7, ("f",))
    assert remainder.ci == pytest.approx((5.5, 6.5, 0.95))
    assert difference(part, whole).reason == "the part takes as long as the total"
    assert difference(whole, missing("refused")).reason == "refused"
