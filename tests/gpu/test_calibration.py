"""Achieved rates and graph replay on an accelerator."""

import pytest
import torch

from bench.devices import find_device
from bench.probes.device_time import work_times
from workloads.calibration import ROUNDS
from workloads.catalogue import catalogue
from workloads.workload import ExecutionContext

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no accelerator")

CUDA = torch.device("cuda", 0)


def built(workload, **axes):
    definition = catalogue()[workload]
    config = definition.configure(axes)
    return definition.build(
        config, ExecutionContext(device=CUDA, store=None)
    ), definition.static_costs(config)


@pytest.mark.parametrize("quantity", ["copy", "product", "exponentials"])
def test_achieved_rates_are_below_the_data_sheets(quantity):
    device = find_device("cuda")
    program, facts = built("device-rates", quantity=quantity)
    seconds = work_times(lambda: program.run("forward"), device, samples=5).device.value
    rates = device.peak_rates()
    bound = max(
        facts.step_flops / device.peak_flops("bfloat16"),
        facts.minimum_bytes / rates.bytes_s,
        facts.exponentials / rates.exponentials_s,
    )
    # A simple program reaches a third of the peak, and exceeds it by a boost clock at most.
    assert 0.9 < seconds / bound < 3, (seconds, bound)


def test_exponential_kernel_computes_exponentials():
    program, _ = built("device-rates", quantity="exponentials", size=1)
    program.run("forward")
    source, target = program.tensors()["inputs"]
    expected = source.abs().double()
    for _ in range(ROUNDS):
        expected = torch.exp2(-expected)
    torch.testing.assert_close(target.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("operator", ["triangle_attention", "transition"])
def test_graph_of_a_step_has_the_gradients_of_the_eager_step(operator):
    program, _ = built("operators", operator=operator, tokens=64, precision="bfloat16")

    def step():
        for phase in program.phases:
            program.run(phase)

    step()
    eager = [tensor.clone() for tensor in program.tensors()["gradients"]]
    replay = find_device("cuda").capture(step)
    captured = program.tensors()["gradients"]
    for tensor in captured:
        tensor.fill_(float("nan"))
    replay()
    torch.cuda.synchronize()
    assert len(eager) == len(captured)
    for expected, actual in zip(eager, captured, strict=True):
        assert torch.equal(expected, actual)
