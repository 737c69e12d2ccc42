"""Static costs of the full model: parameters by component, FLOPs by part, a traced step."""

import json
import time
from contextlib import closing
from functools import cache

import pytest
import torch
from support import closed_forms

from refsys.batch import Batch
from refsys.config import PRESETS
from refsys.model.alphafold3 import AlphaFold3
from refsys.precision import PRECISIONS
from refsys.training.build import placeholder_batch
from workloads.catalogue import catalogue
from workloads.errors import UnsupportedError, WorkloadError
from workloads.host_programs import ConventionalProgram
from workloads.predicted_costs import predicted_costs
from workloads.workload import ExecutionContext

WORKLOAD = catalogue()["alphafold3"]
COMPONENTS = (
    *("input_atom_encoder", "trunk_glue", "template", "msa", "pairformer"),
    *("diffusion_conditioning", "diffusion_atom_encoder", "token_transformer"),
    *("diffusion_norms", "diffusion_atom_decoder", "confidence", "distogram"),
)
# Counted from the released model, without its two unused duplicate pair embeddings.
ORACLE = {
    "tiny": (
        *(35_024, 28_624, 10_272, 73_472, 211_072),
        *(84_042, 37_520, 140_448, 4_224, 21_960, 199_264, 2_048),
    ),
    "mini": (
        *(197_024, 141_280, 37_056, 449_024, 3_075_840),
        *(641_418, 223_072, 8_268_864, 74_304, 181_776, 1_052_928, 4_096),
    ),
    "small": (
        *(1_041_440, 499_648, 139_648, 1_516_544, 24_566_784),
        *(2_421_066, 1_142_688, 49_585_280, 296_064, 1_036_368, 6_758_784, 8_192),
    ),
    "base": (
        *(1_041_440, 499_648, 255_744, 3_033_088, 49_133_568),
        *(2_421_066, 1_142_688, 99_170_432, 296_064, 1_036_368, 12_900_480, 8_192),
    ),
    "full": (
        *(1_041_440, 499_648, 255_744, 3_033_088, 147_400_704),
        *(2_421_066, 1_142_688, 198_340_736, 296_064, 1_036_368, 12_900_480, 8_192),
    ),
}
# Eight atoms a token, as the closed forms have it.
SYNTHETIC = {"entry": "synthetic"}


@pytest.mark.parametrize("name", ORACLE)
def test_components_equal_the_oracle(name):
    with torch.device("meta"):
        components = AlphaFold3(PRESETS[name], PRECISIONS["bfloat16"]).components()
    counts = {n: sum(p.numel() for p in part.parameters()) for n, part in components.items()}
    assert counts == dict(zip(COMPONENTS, ORACLE[name], strict=True))


def test_static_costs_have_all_components():
    axes = {"preset": "tiny", "tokens": 8, "alignment_rows": 2, "samples": 1}
    facts = WORKLOAD.static_costs(WORKLOAD.configure(axes))
    assert tuple(facts.components.values()) == ORACLE["tiny"]
    assert facts.parameters == sum(ORACLE["tiny"]) == 847_970
    assert sum(facts.forward_flops_by_component.values()) == facts.forward_flops
    assert facts.forward_flops_by_component["other"] < 1e-3 * facts.forward_flops


def test_describe_prints_all_components(foldperf):
    done = foldperf("describe", "alphafold3", "--preset", "tiny", "--json", check=0)
    found = json.loads(done.stdout)
    assert found["parameters"] == 847_970
    assert tuple(found["components"]) == COMPONENTS


@cache
def static_costs(tokens, samples):
    axes = {"preset": "full", "tokens": tokens, "samples": samples, "precision": "bfloat16"}
    return WORKLOAD.static_costs(WORKLOAD.configure(axes | {"alignment_rows": 1024} | SYNTHETIC))


@pytest.mark.parametrize(("tokens", "samples"), [(384, 48), (768, 32)])
def test_flops_of_each_part_equal_the_closed_forms(tokens, samples):
    found = dict(static_costs(tokens, samples).forward_flops_by_component)
    expected = closed_forms.forward(tokens, samples=samples, rows=1024)
    for name in ("pairformer", "msa", "token_transformer", "confidence"):
        assert found[name] == pytest.approx(expected[name], rel=0.02), name
    # Apart from the blocks: features, pairs, tokens; a few per cent of these components.
    encoders = ("input_atom_encoder", "diffusion_atom_encoder", "diffusion_atom_decoder")
    atoms = sum(found[name] for name in encoders)
    assert expected["atom_transformers"] < atoms < 1.12 * expected["atom_transformers"]


@pytest.mark.parametrize(("tokens", "samples", "total"), [(384, 48, 127e12), (768, 32, 523e12)])
def test_flops_of_a_step_equal_the_published_analysis(tokens, samples, total):
    """At 2.5 cycles on average, backward twice the forward pass, one recomputation."""
    found = static_costs(tokens, samples)
    parts = found.forward_flops_by_component
    cycle = parts["template"] + parts["msa"] + parts["pairformer"] + parts["trunk_glue"]
    differentiated = (found.step_flops - found.forward_flops) / 2
    step = 1.5 * cycle + found.forward_flops + 3 * differentiated
    assert step == pytest.approx(total, rel=0.05)


def test_full_step_is_traced_without_the_hardware():
    """No shape depends on data and nothing is read back, or it could not be traced."""
    axes = {"preset": "full", "tokens": 768, "samples": 32, "precision": "bfloat16"}
    axes |= {"backend": "triton"}
    # Tracing is one thread's work: whatever else runs meanwhile does not count.
    start = time.process_time()
    found = predicted_costs(
        WORKLOAD, WORKLOAD.configure(axes | SYNTHETIC | {"stage": "fine_tuning_2"})
    )
    assert time.process_time() - start < 120
    assert not found.unpriced
    assert {"parameters", "optimizer", "activations", "gradients"} <= set(found.peak.by_state)
    assert 20 * 2**30 < found.peak.nbytes < 22 * 2**30


def first_batches(config, setting, count):
    """Return the batches of the first steps of a case, on the host."""
    with closing(WORKLOAD.batches(config, setting)) as batches:
        return [next(batches).sent.host for _ in range(count)]


def test_synthetic_batches_fill_the_placeholders_shapes(tmp_path):
    config = WORKLOAD.configure(SYNTHETIC | {"tokens": 24, "batch": 2})
    setting = ExecutionContext(device=torch.device("cpu"), store=tmp_path)
    one, other = first_batches(config, setting, 2)
    (two,) = first_batches(config, setting, 1)
    expected: Batch = placeholder_batch(config.run)
    assert one.sizes == expected.sizes
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["atom_position"], other["atom_position"])


def test_two_runs_of_two_steps_give_the_same_bits(tmp_path):
    config = WORKLOAD.configure(SYNTHETIC | {"tokens": 16, "alignment_rows": 4, "cycles": 2})
    program = WORKLOAD.build(config, ExecutionContext(device=torch.device("cpu"), store=tmp_path))
    losses = []
    for _ in range(2):
        for phase in program.phases:
            program.run(phase)
        losses.append(program.outcome()["loss"])
    again = WORKLOAD.build(config, ExecutionContext(device=torch.device("cpu"), store=tmp_path))
    for phase in (*again.phases, *again.phases):
        again.run(phase)
    assert again.outcome()["loss"] == losses[1]


def test_real_structures_fill_the_placeholders_shapes_and_have_a_permutation(store):
    axes = {"tokens": 32, "alignment_rows": 4, "entry": "3en2-assembly1", "crop": "interface"}
    config = WORKLOAD.configure(axes)
    setting = ExecutionContext(device=torch.device("cpu"), store=store.root)
    (batch,) = first_batches(config, setting, 1)
    assert batch.sizes == placeholder_batch(config.run).sizes
    program = WORKLOAD.build(config, setting)
    for phase in program.phases:
        program.run(phase)
    assert program.outcome()["tokens"] == 32
    assert program.phases == (
        *("data", "trunk", "rollout", "permutation", "diffusion", "backward", "optimizer"),
    )
    assert "3en2-assembly1 structure" in WORKLOAD.inputs(config, store.root)


def test_host_phases_are_not_traced():
    """Labels are permuted on the host, whose work no fake tensor can do."""
    program = WORKLOAD.build_abstract(WORKLOAD.configure({"tokens": 8, "alignment_rows": 2}))
    assert program.phases == ("trunk", "rollout", "diffusion", "backward", "optimizer")


def test_crop_with_more_atoms_than_the_case_holds_is_unsupported(store):
    axes = {"tokens": 64, "alignment_rows": 2, "entry": "2q2k", "atoms": 32}
    setting = ExecutionContext(device=torch.device("cpu"), store=store.root)
    program = WORKLOAD.build(WORKLOAD.configure(axes), setting)
    with pytest.raises(UnsupportedError, match=r"2q2k: \d+ atoms in a crop of 64 tokens; a batch"):
        program.run("data")


@pytest.mark.parametrize("path", ["conventional", "conventional-cached"])
def test_conventional_path_leaves_the_batch_unchanged(store, path, monkeypatch):
    axes = {"tokens": 32, "alignment_rows": 4, "entry": "5vht", "preset": "tiny"}
    setting = ExecutionContext(device=torch.device("cpu"), store=store.root)
    made = []

    class Noted(ConventionalProgram):
        def run(self, phase):
            super().run(phase)
            made.append(phase)

    monkeypatch.setattr("workloads.alphafold3.ConventionalProgram", Noted)
    usual = first_batches(WORKLOAD.configure(axes), setting, 2)
    batches = WORKLOAD.batches(WORKLOAD.configure(axes | {"path": path}), setting)
    made.clear()
    other = [next(batches).sent.host for _ in range(2)]
    for one, two in zip(usual, other, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert made.count("features") == made.count("to_device") == 2
    with pytest.raises(WorkloadError, match="entry=synthetic has others"):
        WORKLOAD.configure({"entry": "synthetic", "path": path})
