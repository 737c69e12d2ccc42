"""Statistics and probes: medians and their intervals, energy between ticks, peaks, counts."""

import math
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from bench.devices import Unavailable
from bench.devices.cpu import CpuDevice
from bench.devices.device import NotSupported
from bench.devices.peaks import Rates
from bench.metrics import METRICS, Value, as_json, from_samples, median_interval, missing
from bench.probes import host_memory
from bench.probes.agreement import count_agreement
from bench.probes.categories import kernel_kind, operator_kind
from bench.probes.counts import count_kernels, count_operators
from bench.probes.energy import Window, interpolate, measure_energy
from bench.probes.floors import floors
from bench.probes.memory import MemoryProbe
from bench.probes.telemetry import Telemetry
from bench.probes.time import measure_time
from bench.probes.utilization import (
    device_busy,
    disturbance,
    hardware_flop_utilization,
    model_flop_rates,
    watch_cpu,
)
from workloads.workload import Facts, Program

FACTS = Facts(
    parameters=1,
    components={},
    forward_flops=200,
    forward_flops_by_component={},
    step_flops=600,
    arithmetic="bfloat16",
    minimum_bytes=1,
)


class TestMedian:
    @given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60))
    def test_interval_holds_the_median_and_says_its_coverage(self, samples):
        low, high, coverage = median_interval(samples)
        assert min(samples) <= low <= np.median(samples) <= high <= max(samples)
        assert coverage <= 1

    @pytest.mark.parametrize("n", [6, 9, 15, 30])
    def test_coverage_is_what_it_says(self, n):
        """Of many samples of a skewed distribution, so many intervals hold its true median."""
        random = np.random.default_rng(3)
        found = [median_interval(random.exponential(size=n).tolist()) for _ in range(4000)]
        held = np.mean([low <= math.log(2) <= high for low, high, _ in found])
        coverage = found[0][2]
        assert coverage >= 0.95
        assert abs(held - coverage) < 0.02

    def test_too_few_samples_say_so(self):
        assert median_interval([1.0, 2.0, 3.0]) == (1.0, 3.0, 0.75)

    def test_a_single_sample_covers_nothing(self):
        assert median_interval([1.0]) == (1.0, 1.0, 0.0)


class TestJson:
    def test_a_figure_that_is_not_finite_is_null_with_a_reason(self):
        values = {"step_time_s": Value(math.inf, "m"), "energy_per_step_j": missing("no counter")}
        found = as_json(values)
        assert found["step_time_s"]["value"] is None
        assert "not finite" in found["step_time_s"]["reason"]
        assert found["energy_per_step_j"]["reason"] == "no counter"

    def test_parts_have_the_unit_of_their_whole(self):
        found = as_json({"phase_time_s.forward": from_samples([1.0, 2.0], "m")})
        assert found["phase_time_s.forward"]["unit"] == METRICS["phase_time_s"].unit
        assert found["phase_time_s.forward"]["samples"] == [1.0, 2.0]


class Ticking(CpuDevice):
    """A device that draws constant power and whose counter moves in ticks."""

    def __init__(self, watts, tick_s, fails_after=math.inf):
        super().__init__()
        self.watts, self.tick_s, self.fails_after = watts, tick_s, fails_after
        self.start = time.perf_counter()

    def energy_j(self):
        elapsed = time.perf_counter() - self.start
        if elapsed > self.fails_after:
            raise NotSupported("the counter went away")
        return self.watts * (elapsed // self.tick_s) * self.tick_s


WINDOW = Window(seconds=1.0, ticks=20, padding_s=0.1)


class TestEnergy:
    def test_power_is_right_to_a_fraction_of_a_tick(self):
        device = Ticking(watts=250, tick_s=0.03)
        # Long enough that a poll which waits for a busy core does not count.
        window = replace(WINDOW, seconds=4.0)
        values = measure_energy(lambda: time.sleep(0.01), device, window)
        assert values["mean_power_w"].value == pytest.approx(250, rel=0.02)
        energy = values["energy_per_step_j"]
        assert energy.value * energy.n == pytest.approx(250 * 4.0, rel=0.05)

    def test_too_few_ticks_are_no_figure(self):
        values = measure_energy(lambda: time.sleep(0.01), Ticking(250, 0.2), WINDOW)
        assert values["energy_per_step_j"].value is None
        assert "too few" in values["energy_per_step_j"].reason

    def test_a_counter_that_goes_away_is_no_figure(self):
        device = Ticking(250, 0.03, fails_after=0.5)
        values = measure_energy(lambda: time.sleep(0.01), device, WINDOW)
        assert values["mean_power_w"].reason == "the counter went away"

    def test_a_machine_without_a_counter_runs_no_step(self):
        values = measure_energy(lambda: pytest.fail("ran"), Ticking(1, 1, fails_after=-1), WINDOW)
        assert values["mean_power_w"].value is None

    def test_a_counter_that_goes_backwards_is_no_figure(self):
        device = Ticking(-250, 0.03)
        values = measure_energy(lambda: time.sleep(0.01), device, replace(WINDOW, seconds=0.8))
        assert values["energy_per_step_j"].reason == "the energy counter went backwards"

    def test_interpolation_is_linear_between_ticks_and_constant_outside(self):
        times, joules = [1.0, 2.0, 4.0], [10.0, 20.0, 60.0]
        moments = (0.5, 1.0, 1.5, 3.0, 4.0, 9.0)
        found = [interpolate(times, joules, moment) for moment in moments]
        assert found == [10, 10, 15, 40, 60, 60]


class Layers(Program):
    """Two linear layers, forward and backward; can hold extra memory for a moment."""

    phases = ("forward", "backward")

    def __init__(self, extra=0):
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        self.x = torch.ones(3, 8)
        self.extra = extra

    @property
    def module(self):
        return self.layers

    def tensors(self):
        return {"parameters": list(self.layers.parameters()), "inputs": [self.x]}

    def run(self, phase):
        if phase == "forward":
            torch.ones(self.extra // 4)
            self.loss = self.layers(self.x).square().sum()
        else:
            self.loss.backward()


def test_time_gives_every_phase_and_every_sample():
    values, steps = measure_time(Layers(), CpuDevice(), 4)
    assert set(values) == {"step_time_s", "phase_time_s.forward", "phase_time_s.backward"}
    assert len(steps) == 4
    assert values["step_time_s"].samples == tuple(step.total for step in steps)
    for step in steps:
        assert step.total == pytest.approx(sum(step.phases.values()))


def test_peak_memory_sees_what_a_step_holds_for_a_moment():
    """Both peaks of a step that holds 200 MiB are 200 MiB above those of one that does not."""
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


def test_a_kernel_that_forbids_the_reset_leaves_a_reason(monkeypatch, tmp_path):
    monkeypatch.setattr(host_memory, "_CLEAR_REFS", tmp_path / "no" / "clear_refs")
    values = MemoryProbe(CpuDevice()).peaks(lambda: None, first=False)
    assert "cannot be written" in values["peak_resident_bytes"].reason


def test_counts_of_a_small_program_are_exact():
    program = Layers()
    for phase in program.phases:
        program.run(phase)
    values, breakdown = count_operators(program)
    # Per step: 3×8×16 and 3×16×4 multiply-adds forward; backward twice the second, once the first
    # (the input needs no gradient).
    forward = 2 * (3 * 8 * 16 + 3 * 16 * 4)
    assert values["hardware_flops"].value == forward + 2 * (2 * 3 * 16 * 4 + 3 * 8 * 16)
    assert breakdown["flops_by_phase"]["forward"] == forward
    assert values["operator_calls"].value == sum(breakdown["calls_by_operator"].values())
    assert breakdown["calls_by_operator"]["aten.addmm.default"] == 2
    states = {name: v.value for name, v in values.items() if name.startswith("peak_tracked_bytes.")}
    assert sum(states.values()) == values["peak_tracked_bytes"].value
    assert states["peak_tracked_bytes.parameters"] == 4 * (8 * 16 + 16 + 16 * 4 + 4)


class Recomputed(Layers):
    """The same behind a checkpoint, whose early stop begins an operator and does not run it."""

    def run(self, phase):
        if phase == "forward":
            self.loss = checkpoint(self.layers, self.x, use_reentrant=False).sum()
        else:
            super().run(phase)


@pytest.mark.parametrize("kind", [Layers, Recomputed])
def test_the_profiler_and_the_dispatch_mode_agree(kind):
    flags, counted = count_agreement(kind())
    assert flags == ()
    assert counted["aten.addmm"] == (2 if kind is Layers else 4)


def test_a_disagreement_is_named():
    class Restless(Layers):
        steps = 0

        def run(self, phase):
            self.steps += phase == "forward"
            super().run(phase)
            if phase == "forward" and self.steps == 2:
                torch.ones(2, 2) @ torch.ones(2, 2)

    values, _ = count_operators(Restless())
    (flag,) = values["operator_calls"].flags
    assert flag == "aten.mm: 3 dispatched, 3 and 4 profiled"


def test_operators_and_kernels_have_a_kind():
    kinds = {
        "aten.mm.default": "linear",
        "aten.add_.Tensor": "elementwise",
        "aten.mul.Tensor": "elementwise",
        "aten.relu_.default": "activation",
        "aten._fused_adamw_.default": "optimizer",
        "c10d.allreduce_.default": "communication",
        "somebody.operator.default": "other",
        "somebody.fast_attention_backward.default": "attention",
    }
    assert {name: operator_kind(name) for name in kinds} == kinds
    kernels = {
        "Memcpy HtoD (Pageable -> Device)": "copy",
        "ncclDevKernel_AllReduce_Sum_f32_RING_LL": "communication",
        "nvjet_tst_128x64_64x10_2x1_v_bz_TNT": "matrix_product",
        "void at::native::vectorized_layer_norm_kernel<float, float>": "normalization",
        "void at::native::vectorized_elementwise_kernel<4, AddFunctor>": "elementwise",
        "triton_poi_fused_add_0": "generated",
        "strange": "other",
    }
    assert {name: kernel_kind(name) for name in kernels} == kernels


def test_kinds_sum_to_the_whole():
    values, _ = count_operators(Layers())
    parts = [v.value for name, v in values.items() if name.startswith("operator_calls.")]
    assert sum(parts) == values["operator_calls"].value
    assert min(parts) > 0


def test_operator_counts_agree_with_the_profiler():
    program = Layers()
    _, breakdown = count_operators(program)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for phase in program.phases:
            program.run(phase)
    seen = {event.key: event.count for event in profiler.key_averages()}
    for operator in ("addmm", "relu", "mm"):
        counted = breakdown["calls_by_operator"].get(f"aten.{operator}.default", 0)
        assert counted == seen.get(f"aten::{operator}", 0) > 0


def test_no_count_is_ever_zero():
    class Idle(Layers):
        def run(self, phase):
            pass

    values, _ = count_operators(Idle())
    assert values["operator_calls"].value is None
    kernels, _ = count_kernels(Layers(), CpuDevice())
    assert {value.value for value in kernels.values()} == {None}


def test_utilization_of_the_host_and_of_a_device_without_a_peak():
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


def test_the_work_of_others_is_seen_and_flagged():
    """Two processes spin while this one sleeps."""
    spin = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(spin) for _ in range(2)]
    try:
        time.sleep(0.3)
        _, values = watch_cpu(lambda: time.sleep(1.0))
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert values["foreign_busy_pct"].value > 10
    assert "disturbed: others used" in disturbance(values)
    assert not disturbance({"foreign_busy_pct": missing("no /proc/stat")})


def test_busy_share_of_a_device_that_has_one():
    class Busy(CpuDevice):
        def __init__(self):
            super().__init__()
            self.start = time.perf_counter()

        def busy_pct(self):
            """Still remembers, for a while, that nothing ran."""
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


def test_the_floor_is_what_the_scarcest_resource_takes():
    class Rated(CpuDevice):
        def peak_flops(self, dtype):
            return {"bfloat16": 1000.0}[dtype]

        def peak_rates(self):
            return Rates(bytes_s=10.0, exponentials_s=2.0, instructions_s=5.0)

    known = replace(FACTS, exponentials=8, instructions=10)
    found = floors(Rated(), known, 12.0)
    parts = {name: value.value for name, value in found.items()}
    assert parts == {
        "floor_s": 4.0,
        "floor_s.products": FACTS.step_flops / 1000,
        "floor_s.bytes": 0.1,
        "floor_s.exponentials": 4.0,
        "floor_s.instructions": 2.0,
        "times_floor": 3.0,
    }
    plain = floors(Rated(), FACTS, 12.0)
    assert "floor_s.exponentials" not in plain
    assert plain["floor_s"].value == max(FACTS.step_flops / 1000, 0.1)
    for nothing in (
        floors(CpuDevice(), known, 1.0),
        floors(Rated(), replace(FACTS, step_flops=0, minimum_bytes=0), 1.0),
    ):
        assert nothing.keys() == {"floor_s", "times_floor"}
        assert all(value.value is None and value.reason for value in nothing.values())


def test_telemetry_is_what_can_be_had():
    class Warm(CpuDevice):
        def temperature_c(self):
            return 40.0

    for device, expected in ((Warm(), {"temperature_c": [40.0, 40.0]}), (CpuDevice(), {})):
        telemetry = Telemetry(device)
        telemetry.read()
        telemetry.read()
        assert telemetry.as_json() == expected


def test_memory_that_others_hold_is_flagged():
    class Shared(CpuDevice):
        def used_bytes(self):
            return 5 * 2**30

    used = MemoryProbe(Shared()).device_used()["device_used_bytes"]
    assert used.quality == "degraded"
    assert used.flags == ("5120 MiB were in use before the case",)


def test_unavailable_carries_what_would_help():
    assert Unavailable("why", "how").unlock == "how"
