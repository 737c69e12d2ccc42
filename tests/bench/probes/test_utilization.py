"""Busy shares of host and device, shares of peak rates, roofline bounds."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from bench.devices import calibration
from bench.devices.calibration import Calibration, load_calibration, save_calibration
from bench.devices.cpu import CpuDevice
from bench.devices.device import NotSupported
from bench.probes import utilization
from bench.probes.roofline import roofline_bounds
from bench.probes.utilization import (
    device_busy,
    disturbance,
    hardware_flop_utilization,
    model_flop_rates,
    shared_cores,
    watch_cpu,
)
from bench.records.metrics import Value, missing
from bench.run.ranks import Ranks
from refsys.costs.devices import Rates
from workloads.workload import StaticCosts

FACTS = StaticCosts(
    parameters=1,
    components={},
    forward_flops=200,
    forward_flops_by_component={},
    step_flops=600,
    arithmetic="bfloat16",
    minimum_bytes=1,
)


def test_utilization_of_the_cpu_and_of_a_device_without_peaks():
    def spin():
        until = time.perf_counter() + 0.3
        while time.perf_counter() < until:
            pass
        return "done"

    result, values = watch_cpu(spin)
    assert result == "done"
    assert 5 < values["cpu_busy_pct"].value <= 110
    assert values["foreign_busy_pct"].value >= 0
    rates = model_flop_rates(CpuDevice(), FACTS, 3.0)
    assert rates["achieved_flops"].value == 200
    assert rates["model_flop_utilization"].value is None
    assert device_busy(CpuDevice(), lambda: None)["device_busy_pct"].value is None


SPIN = f"{sys.executable} -c 'while True: pass' >/dev/null 2>&1"


def test_work_of_other_processes_is_flagged():
    """Let two processes spin that are not descendants of this one, while it sleeps."""
    script = f"{SPIN} & echo $!; {SPIN} & echo $!"
    words = ["sh", "-c", script]
    started = subprocess.run(words, capture_output=True, check=True, encoding="utf-8")
    try:
        time.sleep(0.3)
        _, values = watch_cpu(lambda: time.sleep(1.0))
    finally:
        for pid in started.stdout.split():
            os.kill(int(pid), signal.SIGKILL)
    assert values["foreign_busy_pct"].value > 10
    assert "disturbed: others used" in disturbance(values)
    assert not disturbance({"foreign_busy_pct": missing("no /proc/stat")})


def test_work_of_descendants_is_work_of_the_case():
    """Count a loader process, which outlives the measurement, and a child that ends."""
    lasting = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)
        _, values = watch_cpu(lambda: time.sleep(1.0))
    finally:
        lasting.kill()
        lasting.wait()
    cores = utilization.usable_cores()
    assert values["cpu_busy_pct"].value > 30 / cores

    burn = "import time\nwhile time.process_time() < 0.5: pass"
    ending = [sys.executable, "-c", burn]
    _, values = watch_cpu(lambda: subprocess.run(ending, check=True))
    assert values["cpu_busy_pct"].value > 20 / cores


def test_busy_share_is_read_late_in_the_window():
    class Busy(CpuDevice):
        def __init__(self):
            super().__init__()
            self.start = time.perf_counter()

        def busy_pct(self):
            """Return 0 for a while, as a driver that averages over the past."""
            return 80.0 if time.perf_counter() - self.start > 0.2 else 5.0

        def peak_flops(self, dtype):
            return {"bfloat16": 1000.0}[dtype]

    busy = device_busy(Busy(), lambda: time.sleep(0.01), window_s=0.5)["device_busy_pct"]
    assert (busy.value, min(busy.samples)) == (80, 80)
    assert busy.n > 5
    rates = model_flop_rates(Busy(), FACTS, 2.0)
    assert rates["model_flop_utilization"].value == pytest.approx(0.3)
    flops = Value(800, "m", flags=("f",))
    executed = hardware_flop_utilization(Busy(), FACTS, flops, 2.0)["hardware_flop_utilization"]
    assert executed.value == pytest.approx(0.4)
    assert executed.flags == ("f",)
    (uncounted,) = hardware_flop_utilization(Busy(), FACTS, missing("off"), 2.0).values()
    assert uncounted.value is None
    assert uncounted.reason


def test_achieved_bound_follows_the_calibration(tmp_path, monkeypatch):
    monkeypatch.setenv("FOLDPERF_HOME", str(tmp_path))
    device = CpuDevice()
    assert "check-device" in roofline_bounds(device, FACTS, 1.0)["achieved_bound_s"].reason
    rates = Calibration(bytes_s=10.0, flops={"bfloat16": 100.0}, measured_at="2026-01-01")
    path = save_calibration(device.describe(), rates)
    assert load_calibration(device.describe()) == rates
    values = roofline_bounds(device, FACTS, 12.0)
    bound = max(FACTS.step_flops / 100, FACTS.minimum_bytes / 10)
    assert values["achieved_bound_s"].value == bound
    assert values["ratio_to_achieved_bound"].value == 12.0 / bound
    assert "2026-01-01" in values["achieved_bound_s"].method
    lacking = roofline_bounds(device, replace(FACTS, exponentials=8), 12.0)["achieved_bound_s"]
    assert lacking.reason == "the calibration of 2026-01-01 has no rate of exponentials"
    for damaged in ("", "{}", '{"format": 9}', path.read_text("utf-8").replace("10.0", "-1.0")):
        path.write_text(damaged, encoding="utf-8")
        calibration._read.cache_clear()
        assert load_calibration(device.describe()) is None


def test_roofline_bound_is_the_largest_of_the_resources():
    class Rated(CpuDevice):
        def peak_flops(self, dtype):
            return {"bfloat16": 1000.0}[dtype]

        def peak_rates(self):
            return Rates(bytes_s=10.0, exponentials_s=2.0, instructions_s=5.0)

    facts = replace(FACTS, exponentials=8, instructions=10)
    values = roofline_bounds(Rated(), facts, 12.0)
    parts = {name: value.value for name, value in values.items() if "achieved" not in name}
    assert parts == {
        "roofline_bound_s": 4.0,
        "roofline_bound_s.products": FACTS.step_flops / 1000,
        "roofline_bound_s.bytes": 0.1,
        "roofline_bound_s.exponentials": 4.0,
        "roofline_bound_s.instructions": 2.0,
        "ratio_to_roofline": 3.0,
    }
    plain = roofline_bounds(Rated(), FACTS, 12.0)
    assert "roofline_bound_s.exponentials" not in plain
    assert plain["roofline_bound_s"].value == max(FACTS.step_flops / 1000, 0.1)
    for nothing in (
        roofline_bounds(CpuDevice(), facts, 1.0),
        roofline_bounds(Rated(), replace(FACTS, step_flops=0, minimum_bytes=0), 1.0),
    ):
        names = {
            "roofline_bound_s",
            "ratio_to_roofline",
            "achieved_bound_s",
            "ratio_to_achieved_bound",
        }
        assert nothing.keys() == names
        assert all(value.value is None and value.reason for value in nothing.values())


class Active(CpuDevice):
    """Device with accumulating counters of its units, a simulated clock, and no busy share."""

    def __init__(self, most_calls=100):
        super().__init__()
        self.now, self.calls, self.most_calls = 0.0, 0, most_calls
        self.active_s, self.read_at, self.read_s = 0.0, None, 0.0

    def step(self):
        """Run a step in which the device is active for three quarters of the time."""
        self.now += 0.04
        self.active_s += 0.03

    def activity_pct(self):
        self.calls += 1
        if self.calls > self.most_calls:
            raise NotSupported("gone")
        before, self.read_at = self.read_at, self.now
        active, self.read_s = self.active_s - self.read_s, self.active_s
        if before is None or self.now == before:
            return {}
        return {"sm": 100 * active / (self.now - before), "tensor": 30.0}


@pytest.fixture
def measure_activity(monkeypatch):
    def measure(device, **window):
        monkeypatch.setattr(utilization, "perf_counter", lambda: device.now)
        # The device idles before the window, which must not enter the mean.
        device.now = 7.0
        return device_busy(device, device.step, **window)

    return measure


def test_unit_activity_is_the_mean_over_the_window(measure_activity):
    values = measure_activity(Active())
    assert values["device_busy_pct"].value is None
    assert set(values) == {"device_busy_pct", "unit_activity_pct.sm", "unit_activity_pct.tensor"}
    assert values["unit_activity_pct.sm"].value == pytest.approx(75)
    assert values["unit_activity_pct.tensor"].value == pytest.approx(30)
    # A mean covers at least a tenth of a second: three steps.
    assert values["unit_activity_pct.sm"].n in {16, 17}


def test_unit_activity_is_missing_when_the_window_is_too_short(measure_activity):
    values = measure_activity(Active(), window_s=0.02)
    assert values["unit_activity_pct"].value is None
    assert "too short" in values["unit_activity_pct"].reason


def test_device_busy_runs_no_step_without_counters():
    values = device_busy(CpuDevice(), lambda: pytest.fail("ran"))
    assert {name: value.value for name, value in values.items()} == {
        "device_busy_pct": None,
        "unit_activity_pct": None,
    }
    assert "no activity counters" in values["unit_activity_pct"].reason


def test_activity_has_the_readings_before_a_counter_fails(measure_activity):
    values = measure_activity(Active(most_calls=5))
    assert values["unit_activity_pct.sm"].n == 3
    assert values["unit_activity_pct.sm"].value == pytest.approx(75)


@pytest.mark.parametrize(("ranks", "crowded"), [(1, False), (2, False), (3, True)])
def test_ranks_with_less_than_a_core_each_flag_their_times(monkeypatch, ranks, crowded):
    monkeypatch.setattr(utilization, "usable_cores", lambda: 2)
    flag = shared_cores(CpuDevice(), Ranks(count=ranks))
    assert flag == ("3 ranks shared 2 cores" if crowded else "")
