"""Traces: costs on the right module, memory to the byte, prediction equal to measurement."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import HANG_S
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from refsys.costs.storages import LiveStorages
from refsys.costs.trace import trace
from refsys.ops.workspace import declare, workspace
from workloads.catalogue import catalogue
from workloads.predicted_costs import predicted_costs
from workloads.workload import ExecutionContext, Program

TRUNK = catalogue()["alphafold3-trunk"]


class Network(nn.Module):
    """Two named blocks, the second recomputed in backward."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 8))])

    def forward(self, x):
        return checkpoint(self.blocks[0], self.first(x), use_reentrant=False)


class Step(Program):
    phases = ("forward", "backward")

    def __init__(self, network, width=8):
        self.network, self.x = network, torch.ones(4, width)

    @property
    def module(self):
        return self.network

    def tensors(self):
        return {"parameters": list(self.network.parameters()), "inputs": [self.x]}

    def run(self, phase):
        if phase == "forward":
            self.loss = self.network(self.x).sum()
        else:
            self.loss.backward()


def test_products_are_attributed_to_their_module_and_phase():
    costs = trace(Step(Network())).costs
    flops = {}
    for origin, cost in costs.items():
        if cost.flops:
            key = origin.phase, origin.module
            flops[key] = flops.get(key, 0) + cost.flops
    narrow, wide = 2 * 4 * 8 * 8, 2 * 4 * 8 * 32
    assert flops == {
        ("forward", "first"): narrow,
        ("forward", "blocks.*.*"): 2 * wide,
        # The recomputation stops where all that was saved is there again.
        ("recompute", "blocks.*.*"): wide,
        ("backward", "blocks.*.*"): 4 * wide,
        ("backward", "first"): narrow,
    }


def test_gradients_have_a_state_of_their_own():
    network = Network()
    costs = trace(Step(network))
    sizes = sum(p.numel() * 4 for p in network.parameters())
    assert costs.peak.by_state["parameters"] == sizes
    assert costs.phase_peaks["backward"].by_state["gradients"] <= sizes
    assert sum(costs.peak.by_state.values()) == costs.peak.nbytes
    assert sum(costs.peak.by_origin.values()) == costs.peak.nbytes


def test_storage_is_released_with_its_last_view():
    memory = LiveStorages()
    memory.enter_phase("p")
    tensor = torch.zeros(100)
    assert memory.add(tensor, "activations")
    view = tensor[:10]
    assert not memory.add(view, "activations")
    assert memory.live_bytes == 400
    del tensor
    assert memory.live_bytes == 400
    del view
    assert memory.live_bytes == 0
    assert memory.peak().nbytes == 400


@torch.library.custom_op("foldperf_test::with_scratch", mutates_args=())
def with_scratch(x: torch.Tensor) -> torch.Tensor:
    scratch = workspace("with_scratch.sums", (1000,), dtype=torch.float32, device=x.device)
    scratch.fill_(1)
    return x + scratch.sum()


@with_scratch.register_fake
def _(x):
    declare("with_scratch.sums", 4000)
    return torch.empty_like(x)


class Scratching(Step):
    phases = ("forward",)

    def run(self, phase):
        self.y = with_scratch(self.x)


@pytest.mark.parametrize("fake", [False, True])
def test_scratch_inside_an_opaque_operator_is_traced(fake):
    """Allocated for real or declared by the fake implementation."""
    if fake:
        with torch._subclasses.fake_tensor.FakeTensorMode():
            costs = trace(Scratching(nn.Module()))
    else:
        costs = trace(Scratching(nn.Module()))
    assert costs.peak.by_state["workspace"] == 4000
    assert costs.peak.nbytes == 4 * 8 * 4 + 4000
    # An operator of the project without a FLOP formula is not counted as free.
    assert costs.unpriced == ("foldperf_test.with_scratch.default",)


def test_scratch_outside_an_opaque_operator_is_counted_once():
    class Plain(Step):
        phases = ("forward",)

        def run(self, phase):
            self.y = workspace("x", (500,), dtype=torch.float32, device=self.x.device)

    costs = trace(Plain(nn.Module()))
    assert costs.peak.nbytes == 4 * 8 * 4 + 2000


SMALL = {"preset": "tiny", "tokens": 40, "entry": "synthetic", "workers": 0}


@pytest.mark.parametrize(("checkpointing", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_predicted_costs_equal_those_of_a_real_step(tmp_path, checkpointing, precision):
    """Every call, FLOP and byte; the peak but for the staging of inputs."""
    config = TRUNK.configure(SMALL | {"checkpointing": checkpointing, "precision": precision})
    predicted = predicted_costs(TRUNK, config)
    program = TRUNK.build(config, ExecutionContext(device=torch.device("cpu"), store=tmp_path))
    for phase in program.phases:
        program.run(phase)
    real = trace(program)
    compute = {key: cost for key, cost in real.costs.items() if key.phase != "data"}
    assert {key: figures(cost) for key, cost in compute.items()} == {
        key: figures(cost) for key, cost in predicted.costs.items()
    }
    assert predicted.peak.nbytes == pytest.approx(real.peak.nbytes, rel=0.01)
    for state in ("parameters", "optimizer", "activations"):
        assert predicted.peak.by_state[state] == real.peak.by_state[state]


def figures(cost):
    return cost.calls, cost.flops, cost.nbytes


def test_prediction_is_deterministic():
    config = TRUNK.configure(SMALL)
    one, two = predicted_costs(TRUNK, config), predicted_costs(TRUNK, config)
    assert one.peak == two.peak
    assert {k: figures(c) for k, c in one.costs.items()} == {
        k: figures(c) for k, c in two.costs.items()
    }


def test_shortened_rounds_cost_as_much_as_all_rounds():
    """Three cycles before the last and a rollout."""
    workload = catalogue()["alphafold3"]
    config = workload.configure({"tokens": 16, "entry": "synthetic", "samples": 2, "cycles": 4})
    with FakeTensorMode():
        program = workload.build_abstract(config)
        program.phases = ("trunk", "rollout")
        whole = trace(program)
        short = trace(program, shorten=True)
    assert short == whole


def test_predicted_peak_equals_the_high_water_mark_of_a_process():
    """To 5 %, as the kernel counts the pages of a real step."""
    script = Path(__file__).with_name("high_water_mark.py")
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=HANG_S,
    )
    predicted, marked = map(int, done.stdout.split())
    assert predicted > 200 * 2**20
    assert marked == pytest.approx(predicted, rel=0.05)
