"""Inference as a workload: static costs, traced costs, and the program that `fold` is."""

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from refsys.config import PRESETS
from refsys.costs.trace import trace
from refsys.model.alphafold3 import AlphaFold3
from refsys.precision import PRECISIONS
from workloads.catalogue import catalogue
from workloads.errors import UnsupportedError, WorkloadError
from workloads.predicted_costs import predicted_costs
from workloads.workload import ExecutionContext

WORKLOAD = catalogue()["alphafold3-inference"]
AXES = {
    "preset": "tiny",
    "entry": "synthetic",
    "tokens": 16,
    "alignment_rows": 4,
    "samples": 3,
    "cycles": 3,
    "steps": 3,
}
FEW = {"samples": 1, "cycles": 1, "steps": 1}
SETTING = ExecutionContext(device=torch.device("cpu"), store=Path("none"))


def case(**axes):
    return WORKLOAD.configure(AXES | axes)


@cache
def costs(**axes):
    return WORKLOAD.static_costs(case(**axes))


def test_inference_has_all_components_of_the_model():
    with torch.device("meta"):
        components = AlphaFold3(PRESETS["tiny"], PRECISIONS["float32"]).components()
    found = costs(**FEW)
    assert found.components.keys() == components.keys()
    assert found.parameters == 847_970
    assert found.step_flops == found.forward_flops


def test_flops_of_each_part_are_linear_in_what_repeats_it():
    """Cycles repeat the trunk, samples and steps the denoiser, samples the confidence head."""
    once, many = (dict(costs(**axes).forward_flops_by_component) for axes in (FEW, {}))
    more = {
        name: dict(costs(**FEW | {name: 2}).forward_flops_by_component)
        for name in ("cycles", "samples", "steps")
    }
    repeated = {
        "cycles": {"pairformer", "msa", "template"},
        "samples": {"token_transformer", "confidence"},
        "steps": {"token_transformer"},
    }
    for part, flops in once.items():
        added = {name: twice[part] - flops for name, twice in more.items()}
        for name, parts in repeated.items():
            if part in set.union(*repeated.values()):
                assert (added[name] > 0) == (part in parts), (name, part)
        # Each step denoises every sample: their product counts, once it is more than one.
        denoised = added["steps"]
        assert added["samples"] >= denoised, part
        assert many[part] == (
            flops
            + (AXES["cycles"] - 1) * added["cycles"]
            + (AXES["samples"] - 1) * (added["samples"] - denoised)
            + (AXES["samples"] * AXES["steps"] - 1) * denoised
        ), part


def test_static_costs_are_independent_of_chunks():
    assert costs(**FEW | {"samples": 2}, chunk_rows=3, chunk_samples=1) == costs(
        **FEW | {"samples": 2}
    )


@pytest.mark.parametrize(("chunk_rows", "cycles"), [(0, 1), (10, 2)])
def test_predicted_costs_are_those_of_the_program_that_runs(chunk_rows, cycles):
    config = case(chunk_rows=chunk_rows, cycles=cycles, samples=2, steps=2)
    program = WORKLOAD.build(config, SETTING)
    program.run("data")
    program.phases = program.forward_phases
    measured, predicted = trace(program), predicted_costs(WORKLOAD, config)
    for quantity in ("calls", "launches", "flops", "nbytes"):
        assert predicted.total(quantity) == measured.total(quantity), quantity
    peaks = [
        {phase: peak.nbytes for phase, peak in found.phase_peaks.items()}
        for found in (predicted, measured)
    ]
    assert peaks[0] == peaks[1]
    assert not predicted.unpriced


def test_program_predicts_finite_structures_and_each_step_its_own_batch():
    program = WORKLOAD.build(case(samples=2), SETTING)
    outcomes = []
    for _ in range(2):
        for phase in program.phases:
            program.run(phase)
        outcomes.append(program.outcome())
    assert all(0 < outcome["plddt"] < 100 for outcome in outcomes)
    assert all(0 < outcome["ptm"] < 1 for outcome in outcomes)
    assert outcomes[0]["tokens"] == 16
    assert not any(parameter.requires_grad for parameter in program.module.parameters())


def test_activations_of_inference_are_freed_after_the_last_phase():
    peak = predicted_costs(WORKLOAD, case(**FEW)).peak
    states = {"parameters", "inputs", "activations", "temporaries", "workspace"}
    assert set(peak.by_state) <= states


def test_rank_predicts_a_part_of_the_flops():
    whole, half = costs(**FEW, tokens=32), costs(**FEW, tokens=32, context_ranks=2)
    assert half.forward_flops == whole.forward_flops // 2
    config = case(**FEW, tokens=32, context_ranks=2, chunk_rows=16)
    trace_of_rank = predicted_costs(WORKLOAD, config)
    assert {key.ranks for key in trace_of_rank.communication} == {2}
    assert 0.4 * whole.forward_flops < trace_of_rank.total("flops") < 0.8 * whole.forward_flops


def test_title_and_labels_name_what_is_unusual():
    config = case(cycles=10)
    assert WORKLOAD.labels(config)["variant"].endswith("cycles=10, steps=3, synthetic")
    assert WORKLOAD.labels(config)["series"] == "alphafold3-inference tiny"


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"atoms": 33}, "atoms=33 is not a multiple of the window, 32"),
        ({"tokens": 3, "context_ranks": 4}, "tokens=3 are too few for context_ranks=4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(axes, message):
    with pytest.raises(WorkloadError, match=message):
        case(**axes)


def test_ranks_that_context_ranks_do_not_divide_are_refused():
    setting = ExecutionContext(device=torch.device("cpu"), store=Path("none"), ranks=3)
    with pytest.raises(UnsupportedError, match="context_ranks=2 needs a multiple"):
        WORKLOAD.build(case(context_ranks=2), setting)


def test_longer_crop_than_the_structure_is_refused(store):
    setting = ExecutionContext(device=torch.device("cpu"), store=store.root)
    config = WORKLOAD.configure({"entry": "1ubq", "tokens": 77})
    with pytest.raises(UnsupportedError, match="1ubq has 76 tokens, and 77 would measure padding"):
        WORKLOAD.build(config, setting)


def test_program_names_its_model():
    assert isinstance(WORKLOAD.build(case(), SETTING).module, nn.Module)
