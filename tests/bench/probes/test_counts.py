"""Counts of a step: operators, kernels and launches, and their kinds."""

from collections import Counter

import pytest
import torch
from support.layered import Layers
from torch.utils.checkpoint import checkpoint

from bench.devices.cpu import CpuDevice
from bench.probes import counts
from bench.probes.agreement import count_agreement
from bench.probes.counts import LAUNCHED, count_kernels, count_operators
from bench.probes.device_events import DeviceEvents
from bench.probes.kernel_kinds import kernel_kind


def test_counts_of_a_small_program_are_exact():
    program = Layers()
    for phase in program.phases:
        program.run(phase)
    values, breakdown = count_operators(program)
    # Multiply-adds per step: 3×8×16 and 3×16×4 in forward; in backward twice the second and once
    # the first (the input needs no gradient).
    forward = 2 * (3 * 8 * 16 + 3 * 16 * 4)
    assert values["hardware_flops"].value == forward + 2 * (2 * 3 * 16 * 4 + 3 * 8 * 16)
    assert breakdown["flops_by_phase"]["forward"] == forward
    assert values["operator_calls"].value == sum(breakdown["calls_by_operator"].values())
    assert breakdown["calls_by_operator"]["aten.addmm.default"] == 2
    states = {name: v.value for name, v in values.items() if name.startswith("peak_tracked_bytes.")}
    assert sum(states.values()) == values["peak_tracked_bytes"].value
    assert states["peak_tracked_bytes.parameters"] == 4 * (8 * 16 + 16 + 16 * 4 + 4)


class Recomputed(Layers):
    """Layers within a checkpoint, whose early stop begins an operator and does not run it."""

    def run(self, phase):
        if phase == "forward":
            self.loss = checkpoint(self.layers, self.x, use_reentrant=False).sum()
        else:
            super().run(phase)


@pytest.mark.parametrize("kind", [Layers, Recomputed])
def test_profiler_and_dispatch_mode_agree(kind):
    flags, counted = count_agreement(kind())
    assert flags == ()
    assert counted["aten.addmm"] == (2 if kind is Layers else 4)


def test_disagreement_of_counts_names_the_operator():
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


def test_kernels_have_a_kind():
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


def test_calls_by_kind_sum_to_the_total():
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
    profiled = {event.key: event.count for event in profiler.key_averages()}
    for operator in ("addmm", "relu", "mm"):
        counted = breakdown["calls_by_operator"].get(f"aten.{operator}.default", 0)
        assert counted == profiled.get(f"aten::{operator}", 0) > 0


def test_count_of_zero_is_missing_with_a_reason():
    class Idle(Layers):
        def run(self, phase):
            pass

    values, _ = count_operators(Idle())
    assert values["operator_calls"].value is None
    kernels, _ = count_kernels(Layers(), CpuDevice())
    assert {value.value for value in kernels.values()} == {None}


class Scripted(CpuDevice):
    """Accelerator whose successive profiled steps return given lists of events."""

    torch_device = torch.device("cuda", 0)


def counted(monkeypatch, *profiles):
    remaining = iter(profiles)
    monkeypatch.setattr(counts, "profile_work", lambda *_: next(remaining))
    values, breakdown = count_kernels(Layers(), Scripted())
    assert set(LAUNCHED) <= set(values)
    return {name: (v.value, v.flags) for name, v in values.items()}, breakdown


def events(kernels, host=None, graphs=None):
    copies = sum(n for name, n in kernels.items() if name.startswith("Memcpy"))
    return DeviceEvents(Counter(kernels), copies, 1.0, host, graphs)


def test_kernels_and_launches_are_counted_separately(monkeypatch):
    step = events({"gemm": 3, "Memcpy HtoD": 2}, host=1, graphs=1)
    values, breakdown = counted(monkeypatch, step, step)
    assert values == {
        "kernel_launches": (3, ()),
        "kernel_launches.matrix_product": (3, ()),
        "kernel_launches.copy": (2, ()),
        "memory_copies": (2, ()),
        "host_launches": (1, ()),
        "graph_launches": (1, ()),
    }
    assert breakdown == {"kernels": {"gemm": 3, "Memcpy HtoD": 2}}


def test_disagreeing_steps_and_lost_kernels_are_flagged(monkeypatch):
    full, lost = events({"gemm": 3}, host=3, graphs=0), events({"gemm": 2}, host=3, graphs=0)
    values, _ = counted(monkeypatch, full, lost)
    flags = ("two profiled steps disagree", "1 launches have no kernel in the profile")
    assert values["kernel_launches"] == (2, flags)
    assert values["host_launches"] == (3, ())


def test_launches_and_kernels_are_missing_without_events(monkeypatch):
    values, _ = counted(monkeypatch, events({"gemm": 3}), events({"gemm": 3}))
    assert values["host_launches"] == values["graph_launches"] == (None, ())
    values, _ = counted(monkeypatch, events({}), events({}))
    assert values["kernel_launches"] == (None, ())
