"""Training and measurement on an accelerator. Run with ``python -m pytest tests/gpu``."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bench.devices import find_device
from bench.run.measure import Protocol, measure
from refsys.streams import Draw
from workloads.catalogue import catalogue
from workloads.predicted_costs import predicted_costs
from workloads.workload import ExecutionContext

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no accelerator")

TRUNK = catalogue()["alphafold3-trunk"]
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


def build(device, **axes):
    config = TRUNK.configure({"entry": "synthetic", **axes})
    return TRUNK.build(config, ExecutionContext(device=device, store=Path("none")))


def losses(device, steps, **axes):
    program = build(device, **axes)
    losses_ = []
    for _ in range(steps):
        for phase in program.phases:
            program.run(phase)
        losses_.append(program.outcome()["loss"])
    return losses_


def test_random_streams_equal_those_of_the_cpu():
    draw = Draw(3, "gpu", 5, 7)
    count, start = 10_001, 2**33 + 3
    assert np.array_equal(
        draw.integers(count, start), draw.integers_on(CUDA, count, start).cpu().numpy()
    )
    assert np.array_equal(draw.uniform(count), draw.uniform_on(CUDA, count).cpu().numpy())
    np.testing.assert_array_max_ulp(
        draw.normal(count), draw.normal_on(CUDA, count).cpu().numpy(), maxulp=4
    )


def test_training_follows_that_of_the_cpu():
    assert losses(CUDA, 5, tokens=48) == pytest.approx(losses(CPU, 5, tokens=48), rel=1e-4)


@pytest.mark.parametrize("backend", ["reference", "compiled", "triton"])
def test_training_is_deterministic(backend):
    axes = {"tokens": 64, "precision": "bfloat16", "backend": backend}
    assert losses(CUDA, 5, **axes) == losses(CUDA, 5, **axes)


def test_case_has_every_metric():
    config = TRUNK.configure({"entry": "synthetic", "preset": "small", "precision": "bfloat16"})
    setting = ExecutionContext(device=CUDA, store=Path("none"))
    values = measure(TRUNK, config, setting, find_device("cuda"), Protocol(energy_s=2))["metrics"]
    for name in ("step_time_s", "kernel_launches", "peak_allocated_bytes", "device_used_bytes"):
        assert values[name]["value"] > 0, (name, values[name]["reason"])
    assert not values["kernel_launches"]["flags"]
    assert values["host_launches"]["value"] > 0
    energy = values["energy_per_step_j"]
    assert energy["value"] is None or energy["ci"][0] < energy["value"] < energy["ci"][1]
    predicted = predicted_costs(TRUNK, config).peak.nbytes
    assert values["peak_tracked_bytes"]["value"] == pytest.approx(predicted, rel=0.01)
    assert values["peak_allocated_bytes"]["value"] == pytest.approx(predicted, rel=0.10)


def measured(name, **axes):
    workload = catalogue()[name]
    setting = ExecutionContext(device=CUDA, store=Path("none"))
    config = workload.configure(axes)
    return measure(workload, config, setting, find_device("cuda"), Protocol(energy_s=1))


def test_kernel_launches_by_kind_sum_to_the_total():
    values = measured("alphafold3-trunk", entry="synthetic", tokens=64, precision="bfloat16")
    metrics = values["metrics"]
    kinds = {
        name.partition(".")[2]: value["value"]
        for name, value in metrics.items()
        if name.startswith("kernel_launches.")
    }
    copies = metrics["memory_copies"]["value"]
    assert sum(kinds.values()) == metrics["kernel_launches"]["value"] + copies
    assert not any(name.startswith("Optimizer.") for name in values["breakdown"]["kernels"])
    assert kinds.get("other", 0) < 0.02 * sum(kinds.values()), values["breakdown"]["kernels"]


@pytest.mark.parametrize("operator", ["triangle_attention", "transition"])
def test_operator_has_device_and_host_times(operator):
    metrics = measured("operators", operator=operator, precision="bfloat16")["metrics"]
    assert 0 < metrics["model_flop_utilization"]["value"] < 1
    assert metrics["kernel_launches"]["value"] >= 2
    device_s, step_s = metrics["device_time_s"], metrics["step_time_s"]
    assert device_s["method"].startswith("graph")
    assert 0 < device_s["value"] < 1.1 * step_s["value"]
    assert 0 < metrics["device_time_s.backward"]["value"] < device_s["value"]
    assert metrics["host_time_s"]["value"] > 0


@pytest.mark.parametrize("preset", ["bloom-tiny", "llama-tiny"])
def test_transformer_agrees_with_its_naive_twin(preset):
    axes = {"preset": preset, "tokens": 128}
    fair, naive = (
        measured("transformer", variant=variant, **axes)["outcome"]["loss"]
        for variant in ("fair", "naive")
    )
    assert fair == pytest.approx(naive, rel=1e-3)
