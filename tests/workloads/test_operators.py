"""Workload of single operators: every operator, with valid shapes and exact static costs."""

import pytest
import torch

from refsys.costs.trace import trace
from refsys.ops.backend import OPERATORS
from workloads.catalogue import catalogue
from workloads.operator_arguments import CALLS
from workloads.predicted_costs import predicted_costs
from workloads.workload import ExecutionContext

WORKLOAD = catalogue()["operators"]


def config_of(name, **axes):
    return WORKLOAD.configure({"operator": name, "preset": "tiny", "tokens": 24} | axes)


@pytest.fixture
def build(tmp_path):
    def build(name, **axes):
        setting = ExecutionContext(device=torch.device("cpu"), store=tmp_path)
        return WORKLOAD.build(config_of(name, **axes), setting)

    return build


def test_every_operator_has_a_call():
    (axis,) = [axis for axis in WORKLOAD.axes if axis.name == "operator"]
    assert set(axis.choices) == set(OPERATORS) == set(CALLS)


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_step_costs_equal_the_facts(name):
    for backward in (False, True):
        config = config_of(name, backward=backward)
        facts, found = WORKLOAD.static_costs(config), predicted_costs(WORKLOAD, config)
        assert found.total("flops") == pytest.approx(facts.step_flops, rel=0.01), backward
        assert not found.unpriced
        assert found.total("nbytes") >= facts.minimum_bytes


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_peak_of_a_step_is_predicted(build, name):
    program = build(name)
    for phase in program.phases:
        program.run(phase)
    assert trace(program).peak.nbytes == predicted_costs(WORKLOAD, config_of(name)).peak.nbytes


def test_backward_phase_gives_every_input_its_gradient(build):
    program = build("triangle_attention")
    program.run("forward")
    program.run("backward")
    inputs = list(program.tensors()["inputs"])
    floating = [tensor for tensor in inputs if tensor.requires_grad]
    assert len(floating) == 4
    assert len(program.tensors()["gradients"]) == 4
    assert program.implementations() == {"triangle_attention": "reference"}


def test_inputs_are_a_function_of_the_seed(build):
    first, second = build("transition"), build("transition")
    for program in (first, second):
        program.run("forward")
    assert first.outcome() == second.outcome() != {}
