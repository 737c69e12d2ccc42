"""Step and phase times, peak memory, telemetry of the device."""

from types import SimpleNamespace

import pytest
from support.layered import Layers

from bench.devices.cpu import CpuDevice
from bench.probes import host_memory
from bench.probes.memory import MemoryProbe
from bench.probes.telemetry import Telemetry
from bench.probes.time import measure_time


def test_time_has_every_phase_and_sample():
    values, steps = measure_time(Layers(), CpuDevice(), 4)
    assert set(values) == {"step_time_s", "phase_time_s.forward", "phase_time_s.backward"}
    assert len(steps) == 4
    assert values["step_time_s"].samples == tuple(step.total for step in steps)
    for step in steps:
        assert step.total == pytest.approx(sum(step.phases.values()))


def test_peak_memory_includes_temporary_allocations():
    """Both peaks of a step with 200 MiB of temporaries are 200 MiB above those without."""
    small, large = (_peaks(Layers(extra)) for extra in (0, 200 * 2**20))
    for name in ("first_step_peak_resident_bytes", "peak_resident_bytes"):
        assert large[name] - small[name] == pytest.approx(200 * 2**20, rel=0.03)


def _peaks(program):
    probe = MemoryProbe(CpuDevice())
    try:
        values = probe.peaks(lambda: program.run("forward"), first=True)
        values |= probe.peaks(lambda: program.run("forward"), first=False)
    finally:
        probe.finish()
    assert probe.device_used()["device_used_bytes"].value is None
    assert values["peak_allocated_bytes"].value is None
    return {name: value.value for name, value in values.items()}


def test_baseline_and_peak_are_the_high_water_mark():
    probe = MemoryProbe(CpuDevice())
    try:
        values = probe.peaks(lambda: Layers(100 * 2**20).run("forward"), first=False)
        mark = host_memory.anonymous_peak_bytes() + host_memory.file_backed_bytes()
    finally:
        probe.finish()
    total = values["baseline_resident_bytes"].value + values["peak_resident_bytes"].value
    assert total == pytest.approx(mark, rel=0.01)


def test_peak_memory_has_a_reason_when_the_reset_is_forbidden(monkeypatch, tmp_path):
    monkeypatch.setattr(host_memory, "_CLEAR_REFS", tmp_path / "no" / "clear_refs")
    values = MemoryProbe(CpuDevice()).peaks(lambda: None, first=False)
    assert "cannot be written" in values["peak_resident_bytes"].reason


def test_telemetry_has_the_available_readings():
    class Warm(CpuDevice):
        def temperature_c(self):
            return 40.0

    for device, expected in ((Warm(), {"temperature_c": [40.0, 40.0]}), (CpuDevice(), {})):
        telemetry = Telemetry(device)
        telemetry.read()
        telemetry.read()
        assert telemetry.as_json() == expected


def test_device_memory_in_use_before_the_case_is_flagged():
    class Shared(CpuDevice):
        def used_bytes(self):
            return 5 * 2**30

    used = MemoryProbe(Shared()).device_used()["device_used_bytes"]
    assert used.quality == "degraded"
    assert used.flags == ("5120 MiB were in use before the case",)


class Throttled(CpuDevice):
    """Device that throttles in some of the steps."""

    def __init__(self, *readings):
        super().__init__()
        self.readings = iter(readings)

    def throttle_reasons(self):
        return frozenset(next(self.readings))


def test_throttling_is_read_after_each_timed_step_and_named():
    telemetry = Telemetry(Throttled((), ("power cap",), ("power cap", "hot")))
    assert telemetry.throttling() == ""
    measure_time(Layers(), CpuDevice(), 3, telemetry.read_throttling)
    assert telemetry.as_json() == {
        "throttle_reasons": [0, 1, 2],
        "throttle_reasons.hot": [0, 0, 1],
        "throttle_reasons.power cap": [0, 1, 1],
    }
    assert telemetry.throttling() == "throttled: hot, power cap"


def test_throttling_flag_is_empty_without_reasons():
    free, unreadable = Telemetry(Throttled(())), Telemetry(CpuDevice())
    for telemetry in (free, unreadable):
        telemetry.read_throttling()
        assert telemetry.throttling() == ""
    assert free.as_json() == {"throttle_reasons": [0]}
    assert unreadable.as_json() == {}


def test_c_library_can_be_set_to_return_freed_memory():
    assert host_memory.return_freed_memory(True)
    assert host_memory.return_freed_memory(False)


def test_usual_thresholds_of_the_c_library_are_those_of_the_environment(monkeypatch):
    calls = []
    library = SimpleNamespace(mallopt=lambda option, value: calls.append((option, value)) or 1)
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda _: library)
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "nonsense")
    host_memory.return_freed_memory(False)
    assert [value for _, value in calls] == [65536, 64 * 2**20]
