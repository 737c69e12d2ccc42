"""Exact facts of the language model as a workload; its step simulated, and run."""

import json
from dataclasses import replace

import pytest
import torch

from bench.probes.agreement import count_agreement
from refsys import config
from refsys.costs.operator_kinds import operator_kind
from refsys.costs.trace import trace
from refsys.model.alphafold3 import AlphaFold3
from refsys.precision import PRECISIONS
from workloads.catalogue import catalogue
from workloads.errors import UnsupportedError, WorkloadError
from workloads.language_model.presets import PRESETS
from workloads.predicted_costs import predicted_costs
from workloads.workload import ExecutionContext

WORKLOAD = catalogue()["transformer"]
CPU = torch.device("cpu")


def static_costs(**axes):
    return WORKLOAD.static_costs(WORKLOAD.configure(axes))


def build(tmp_path, **axes):
    config = WORKLOAD.configure(axes)
    return WORKLOAD.build(config, ExecutionContext(device=CPU, store=tmp_path))


def test_describe_prints_the_parameters_of_the_released_model(foldperf):
    arguments = ("describe", "transformer", "--preset", "bloom-560m", "--json")
    found = json.loads(foldperf(*arguments, check=0).stdout)
    assert found["parameters"] == sum(found["components"].values()) == 559_214_592
    tokens, blocks, width = found["config"]["tokens"], 24, 1024
    a_token = 6 * found["parameters"] + 12 * blocks * width * tokens
    assert found["step_flops"] == pytest.approx(a_token * tokens, rel=0.05)


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_equal_the_closed_form(name):
    c = PRESETS[name]
    d, f = c.width, c.hidden
    if c.family == "bloom":
        block = 4 * d * d + 4 * d + 2 * d * f + f + d + 4 * d
        rest = 4 * d
    else:
        block = 4 * d * d + 3 * d * f + 2 * d
        rest = d
    assert static_costs(preset=name).parameters == c.vocabulary * d + c.blocks * block + rest


@pytest.mark.parametrize("size", ["tiny", "mini", "560m"])
def test_llama_presets_match_the_size_of_bloom_presets(size):
    bloom, llama = static_costs(preset=f"bloom-{size}"), static_costs(preset=f"llama-{size}")
    assert llama.parameters == pytest.approx(bloom.parameters, rel=0.02)
    assert llama.step_flops == pytest.approx(bloom.step_flops, rel=0.05)


@pytest.mark.parametrize("size", ["tiny", "mini"])
def test_small_presets_match_the_size_of_alphafold3_presets(size):
    with torch.device("meta"):
        other = AlphaFold3(config.PRESETS[size], PRECISIONS["float32"])
    parameters = sum(parameter.numel() for parameter in other.parameters())
    assert static_costs(preset=f"bloom-{size}").parameters == pytest.approx(parameters, rel=1e-3)


@pytest.mark.parametrize("name", ["bloom-560m", "llama-mini"])
@pytest.mark.parametrize(("tokens", "batch"), [(256, 1), (8192, 2)])
def test_flops_equal_the_closed_form(name, tokens, batch):
    """Twice a product's size; attention in full: 4 s² d forward, three times that in a step."""
    c = PRESETS[name]
    inner = 2 if c.family == "bloom" else 3
    matrices = c.blocks * (4 * c.width**2 + inner * c.width * c.hidden) + c.vocabulary * c.width
    found = static_costs(preset=name, tokens=tokens, batch=batch)
    attention = 4 * c.blocks * c.width * tokens**2
    assert found.forward_flops == batch * (2 * matrices * tokens + attention)
    assert found.step_flops == batch * (6 * matrices * tokens + 3 * attention)
    assert sum(found.forward_flops_by_component.values()) == found.forward_flops
    assert found.forward_flops_by_component["head"] == 2 * batch * tokens * c.vocabulary * c.width


@pytest.mark.parametrize("name", ["bloom-tiny", "llama-tiny"])
def test_model_flops_are_independent_of_variant_and_checkpointing(name):
    """The trace differs by exactly the work that a flash kernel and recomputation repeat."""
    c, tokens = PRESETS[name], 48
    model = static_costs(preset=name, tokens=tokens)
    for axes in ({"variant": "naive"}, {"checkpointing": True}, {"loss_rows": 7}):
        assert static_costs(preset=name, tokens=tokens, **axes).step_flops == model.step_flops

    def traced(**axes):
        config = WORKLOAD.configure({"preset": name, "tokens": tokens, **axes})
        found = predicted_costs(WORKLOAD, config)
        assert not found.unpriced
        return found.total("flops")

    scores = 2 * c.blocks * c.width * tokens**2
    assert traced(variant="naive") == model.step_flops
    assert traced() == traced(loss_rows=7) == model.step_flops + scores
    blocks = sum(model.forward_flops_by_component[part] for part in ("attention", "mlp"))
    # The recomputation of a block stops before its last product, which nothing is saved of.
    last = 2 * c.blocks * tokens * c.hidden * c.width
    assert traced(checkpointing=True) == model.step_flops + scores + blocks - last


def test_minimum_bytes_count_parameters_state_and_inputs():
    found = static_costs(preset="bloom-tiny", tokens=10, batch=3)
    assert found.minimum_bytes == 8 * 4 * found.parameters + 3 * 11 * 8
    assert found.arithmetic == "float32"


@pytest.mark.parametrize("variant", ["fair", "naive"])
@pytest.mark.parametrize("name", ["bloom-tiny", "llama-tiny"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_simulated_step_equals_the_executed_step(tmp_path, name, variant, precision):
    """Every call, FLOP and byte of the phases that compute, and the peak."""
    checkpointing = precision == "bfloat16"
    axes = {"preset": name, "variant": variant, "precision": precision, "tokens": 40}
    config = WORKLOAD.configure(axes | {"checkpointing": checkpointing})
    predicted = predicted_costs(WORKLOAD, config)
    program = WORKLOAD.build(config, ExecutionContext(device=CPU, store=tmp_path))
    for phase in program.phases:
        program.run(phase)
    real = trace(program)
    compute = {key: vars_of(cost) for key, cost in real.costs.items() if key.phase != "data"}
    assert compute == {key: vars_of(cost) for key, cost in predicted.costs.items()}
    assert predicted.peak.nbytes == pytest.approx(real.peak.nbytes, rel=0.01)
    assert not predicted.unpriced


def vars_of(cost):
    return cost.calls, cost.flops, cost.nbytes


@pytest.mark.parametrize("variant", ["fair", "naive"])
def test_profiler_counts_the_same_operators_as_the_trace(tmp_path, variant):
    """Neither counts the operators that the CPU's attention calls inside."""
    flags, calls = count_agreement(build(tmp_path, tokens=16, variant=variant))
    assert not flags
    blocks = PRESETS["bloom-tiny"].blocks
    own = "foldperf.alibi_attention", "foldperf.alibi_attention_backward"
    assert [calls.get(name, 0) for name in own] == [blocks * (variant == "fair")] * 2
    assert all(operator_kind(name) == "attention" for name in own)


def test_fair_variant_has_lower_peak_and_fewer_calls_than_naive():
    axes = {"preset": "bloom-560m", "tokens": 768, "precision": "bfloat16"}
    fair, naive = (
        predicted_costs(WORKLOAD, WORKLOAD.configure(axes | {"variant": variant}))
        for variant in ("fair", "naive")
    )
    assert fair.peak.nbytes < 0.9 * naive.peak.nbytes
    assert fair.total("calls") < 0.5 * naive.total("calls")
    # Parameters and moments in float32, and nothing of the size of the vocabulary twice but the
    # head's weight in bfloat16 and a product of its gradient.
    parameters = 4 * 559_214_592
    assert fair.peak.by_state["parameters"] == parameters
    assert fair.phase_peaks["optimizer"].nbytes == pytest.approx(4 * parameters, rel=0.01)


def test_program_reports_the_implementations_that_ran(tmp_path):
    program = build(tmp_path, tokens=16)
    for phase in program.phases:
        program.run(phase)
    assert program.implementations() == {
        "attention": "flash on the CPU",
        "blocks": "eager",
        "loss": "chunked logits",
        "optimizer": "fused",
    }
    assert program.implementations() == {}
    naive = build(tmp_path, tokens=16, variant="naive")
    for phase in naive.phases:
        naive.run(phase)
    assert naive.implementations() == {
        "attention": "materialized logits",
        "blocks": "eager",
        "loss": "all logits",
        "optimizer": "a loop",
    }
    assert naive.outcome()["loss"] == pytest.approx(program.outcome()["loss"], rel=1e-5)
    assert naive.outcome()["tokens"] == 16


def test_ranks_train_on_different_texts(tmp_path):
    config = WORKLOAD.configure({"tokens": 16, "batch": 2})

    def loss(config, rank):
        program = WORKLOAD.build(config, ExecutionContext(device=CPU, store=tmp_path, rank=rank))
        program.run("data")
        program.run("forward")
        return program.outcome()["loss"]

    halves = [loss(config, rank) for rank in (0, 1)]
    assert halves[0] != halves[1]
    assert loss(replace(config, batch=4), 0) == pytest.approx(sum(halves) / 2, rel=1e-5)


def test_labels_and_notes_mark_the_naive_variant_as_a_strawman():
    def labels(**axes):
        return WORKLOAD.labels(WORKLOAD.configure(axes))

    assert labels()["series"] == "transformer bloom-tiny"
    assert labels()["synthetic"] is True
    assert labels()["variant"] == labels(tokens=7)["variant"]
    assert labels()["variant"].startswith("fair, float32")
    assert labels(variant="naive", checkpointing=True)["variant"] == (
        "naive (strawman), float32, equal tokens, checkpointing=True"
    )
    naive = static_costs(variant="naive", tokens=8)
    assert any("strawman" in note for note in naive.notes)
    assert any("6 N + 12 L d s" in note for note in naive.notes)


def test_configure_and_build_raise_for_unsupported_options(tmp_path, monkeypatch):
    with pytest.raises(WorkloadError, match="loss_rows=8 is for variant=fair"):
        WORKLOAD.configure({"variant": "naive", "loss_rows": 8})
    monkeypatch.setattr("workloads.transformer.find_spec", lambda _: None)
    cuda = ExecutionContext(device=torch.device("cuda"), store=tmp_path)
    with pytest.raises(UnsupportedError, match="Triton, which is not installed"):
        WORKLOAD.build(WORKLOAD.configure({}), cuda)
