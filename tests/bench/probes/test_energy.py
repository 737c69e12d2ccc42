"""Energy of a step, measured on a queue in simulated time and with a real thread."""

import time
from dataclasses import replace

import pytest
from support.counted_energy import PoweredDevice

from bench.devices.cpu import CpuDevice
from bench.devices.device import EnergyReading, NotSupported
from bench.probes.energy import ENERGY, Window, measure_energy
from bench.records.metrics import METRICS

WINDOW = Window(seconds=2.0)
HOST_S = 1e-4


def measured(device, step_s=0.013, window=WINDOW, host_s=HOST_S, **device_options):
    work = device.work(host_s, step_s)
    return measure_energy(work, device, window, instruments=device.instruments(**device_options))


def holds(value, truth):
    low, high, coverage = value.ci
    # The device idles once in a window, before the first step is launched.
    slack = 1000 * HOST_S / value.n
    return low - slack <= truth <= high + slack and coverage == 0.95


@pytest.mark.parametrize("step_s", [0.0007, 0.013, 0.4, 3.0])
@pytest.mark.parametrize("seconds", [0.5, 2.0, 5.0])
def test_energy_per_step_is_right_for_windows_of_any_length(step_s, seconds):
    device = PoweredDevice()
    values = measured(device, step_s, replace(WINDOW, seconds=seconds))
    truth = device.busy_w * step_s
    energy = values["energy_per_step_j"]
    assert energy.value == pytest.approx(truth, rel=0.01)
    assert holds(energy, truth)
    assert (energy.quality, energy.flags) == ("measured", ())
    assert values["mean_power_w"].value == pytest.approx(device.busy_w, rel=0.01)
    assert values["idle_power_w"].value == pytest.approx(device.idle_w, rel=0.01)
    above = values["energy_above_idle_per_step_j"]
    assert above.value == pytest.approx((device.busy_w - device.idle_w) * step_s, rel=0.01)
    assert holds(above, (device.busy_w - device.idle_w) * step_s)
    assert set(ENERGY) <= set(values)
    assert {name.partition(".")[0] for name in values} <= set(METRICS)


def test_window_grows_until_it_holds_twenty_ticks():
    short, slow = PoweredDevice(), PoweredDevice(tick_s=0.25)
    for device, least in ((short, 2.0), (slow, 5.0)):
        energy = measured(device, window=replace(WINDOW, seconds=0.5))["energy_per_step_j"]
        assert energy.quality == "measured"
        assert least <= energy.n * 0.013 < 1.4 * least


def test_window_is_extended_when_the_counter_slows_down():
    device = PoweredDevice(tick_s=0.05)
    energy_at = device.energy_at

    def slowing(moment):
        # From the start of the window, only every fourth tick advances the counter.
        return energy_at(moment if moment < 3.5 else max(3.5, moment // 0.2 * 0.2))

    device.energy_at = slowing
    energy = measured(device, window=replace(WINDOW, seconds=0.5))["energy_per_step_j"]
    assert energy.quality == "measured"
    assert energy.n * 0.013 > 1.5 * 20 * 0.05
    assert energy.value == pytest.approx(device.busy_w * 0.013, rel=0.02)


def test_limit_ends_the_window_and_few_ticks_degrade_the_figure():
    device = PoweredDevice(tick_s=1.0)
    values = measured(device, window=replace(WINDOW, limit_s=9.0))
    energy = values["energy_per_step_j"]
    assert energy.quality == "degraded"
    assert energy.flags[0].startswith("few ticks: 8 in 7")
    assert holds(energy, device.busy_w * 0.013)
    assert device.clock() < 30


def test_energy_is_missing_with_too_few_ticks():
    values = measured(PoweredDevice(tick_s=4.0), window=replace(WINDOW, limit_s=8.0))
    assert values["energy_per_step_j"].value is None
    assert "too few" in values["energy_per_step_j"].reason


def test_window_has_one_synchronization_and_a_bounded_queue():
    device = PoweredDevice()
    measured(device, step_s=0.002)
    # Two idle spans; the batches of the estimate; the steps before, in and after the window.
    assert device.waits <= 9
    assert device.queue.most_ahead < 0.3
    unbounded = PoweredDevice()
    measured(unbounded, step_s=0.002, events=lambda _: None)
    assert unbounded.queue.most_ahead > 1


def test_energy_includes_idle_time_within_steps_when_launches_are_slow():
    """Energy per step is gross: it includes the energy while the device waits for the host."""
    device = PoweredDevice()
    values = measured(device, step_s=0.002, host_s=0.004)
    truth = device.busy_w * 0.002 + device.idle_w * 0.002
    assert values["energy_per_step_j"].value == pytest.approx(truth, rel=0.01)
    above = values["energy_above_idle_per_step_j"]
    assert above.value == pytest.approx((device.busy_w - device.idle_w) * 0.002, rel=0.02)


def test_throttling_degrades_the_figure_and_is_named():
    device = PoweredDevice()
    device.reasons = frozenset({"power cap", "hot"})
    values = measured(device)
    for name in ("energy_per_step_j", "mean_power_w", "energy_above_idle_per_step_j"):
        assert values[name].quality == "degraded"
        assert values[name].flags == ("throttled: hot, power cap",)
    assert values["idle_power_w"].quality == "measured"


def test_power_trend_is_flagged():
    device = PoweredDevice()
    device.further_j = lambda moment: 25 * moment**2
    (flag,) = measured(device, window=replace(WINDOW, seconds=5))["energy_per_step_j"].flags
    assert flag.startswith("power changes by +1")


def test_idle_power_that_differs_before_and_after_is_flagged():
    device = PoweredDevice()
    device.further_j = lambda moment: 40 * max(0.0, moment - 3)
    values = measured(device, step_s=0.013)
    (flag,) = values["idle_power_w"].flags
    assert flag == "idle power 100 W before and 140 W after"
    assert values["idle_power_w.before"].value == pytest.approx(100, rel=0.01)
    assert values["idle_power_w.after"].value == pytest.approx(140, rel=0.01)
    assert holds(values["idle_power_w"], 135)
    assert flag in values["energy_above_idle_per_step_j"].flags
    assert flag not in values["energy_per_step_j"].flags


def test_energy_is_missing_when_the_counter_fails_or_decreases():
    lost = measured(PoweredDevice(fails_after=2.0))
    assert {value.reason for value in lost.values()} == {"the counter went away"}
    backwards = PoweredDevice(busy_w=-500, idle_w=-100)
    assert measured(backwards)["energy_per_step_j"].reason == "the energy counter went backwards"


def test_energy_runs_no_step_without_a_counter():
    values = measure_energy(lambda: pytest.fail("ran"), PoweredDevice(fails_after=-1), WINDOW)
    assert {values[name].value for name in ENERGY} == {None}


class Ticking(CpuDevice):
    """Device of constant power in real time, whose counter advances in ticks."""

    def __init__(self, watts, tick_s):
        super().__init__()
        self.watts, self.tick_s = watts, tick_s
        self.start = time.perf_counter()

    def energy_reading(self):
        elapsed = time.perf_counter() - self.start
        return EnergyReading(self.watts * (elapsed // self.tick_s) * self.tick_s)

    def throttle_reasons(self):
        raise NotSupported("none are read")


def test_thread_polls_the_counter_while_steps_run():
    window = replace(WINDOW, seconds=1.2, padding_s=0.2, settle_s=0.05, idle_s=0.2)
    device = Ticking(watts=250, tick_s=0.03)
    values = measure_energy(lambda: time.sleep(0.01), device, window)
    assert values["mean_power_w"].value == pytest.approx(250, rel=0.1)
    assert values["idle_power_w"].value == pytest.approx(250, rel=0.3)
    # Sleeps take longer than requested when other processes use the cores.
    assert values["energy_per_step_j"].value > 0.9 * 250 * 0.01
