"""Exact gate: it passes the present source and fails mutants by name."""

import contextlib
import json

import pytest
import torch

from bench.cli import main
from bench.errors import UsageError
from bench.gate.exact import comparison
from bench.gate.exact.fingerprint import fingerprint
from bench.run.sweep import read_sweep
from refsys.model.pairformer import PairformerBlock
from refsys.model.transition import Transition
from refsys.model.triangle_multiplication import TriangleMultiplicationOutgoing
from workloads.catalogue import catalogue

CASES = read_sweep(comparison.CASES, catalogue()).cases
(TINY,) = [
    case
    for case in CASES
    if (case.workload, case.axes.get("preset")) == ("alphafold3-trunk", "tiny")
]


@contextlib.contextmanager
def mutated(cls, forward):
    original = cls.forward
    cls.forward = lambda self, *arguments: forward(original, self, *arguments)
    try:
        yield
    finally:
        cls.forward = original


def add_layer_norm(original, block, s, z, *rest):
    s, z = original(block, s, z, *rest)
    return s, torch.nn.functional.layer_norm(z, z.shape[-1:])


def keep_float32(original, transition, x):
    """The same mathematics with one tensor left in float32."""
    return original(transition, x.float()).to(x.dtype)


def cubic_temporary(original, module, z, *rest):
    """Allocate and release a tensor of tokens³ elements."""
    cube = z[..., :1].float().unsqueeze(-1).expand(-1, -1, -1, z.shape[2], 1).clone()
    return original(module, z + 0 * cube.sum(), *rest)


MUTANTS = {
    "a tensor kept in float32": (
        Transition,
        keep_float32,
        "pairformer.blocks.*.pair_stack.transition",
        "aten._to_copy.default",
    ),
    "a cubic temporary": (
        TriangleMultiplicationOutgoing,
        cubic_temporary,
        "pairformer.blocks.*.pair_stack.triangle_multiplication_outgoing",
        "aten.clone.default",
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_fail_and_name_module_and_operator(mutant, capsys):
    cls, forward, module, operator = MUTANTS[mutant]
    with mutated(cls, forward):
        assert main(["gate", "--only", "trunk preset=tiny", "--jobs", "1", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "FAIL"
    named = {(change["module"], change["operator"]) for change in found["changes"]}
    assert (module, operator) in named


def test_failure_text_names_module_and_operator_of_an_added_layer_norm(capsys):
    with mutated(PairformerBlock, add_layer_norm):
        assert main(["gate", "--only", "trunk preset=tiny", "--jobs", "1"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("FAIL:")
    assert "pairformer.blocks.* aten.native_layer_norm.default: " in out


def test_every_preset_passes_from_the_command_line(foldperf):
    # One process, which sees each operator for the first time once.
    done = foldperf("gate", "--jobs", "1", check=0)
    assert done.stdout.startswith(f"PASS: {len(CASES)} cases")
    assert {case.workload for case in CASES} == set(catalogue().workloads)
    trunks = [case.axes for case in CASES if case.workload == "alphafold3-trunk"]
    assert {config["preset"] for config in trunks} == {"tiny", "mini", "small", "base", "full"}
    assert {config["checkpointing"] for config in trunks} == {True, False}
    assert {config["cycles"] for config in trunks} == {1, 2}


def test_another_torch_is_ambiguous(tmp_path, capsys):
    table = json.loads(comparison.BASELINE.read_text(encoding="utf-8")) | {"torch": "2.99"}
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(table), encoding="utf-8")
    assert main(["gate", "--baseline", str(path)]) == 3
    assert "the baseline is of torch 2.99" in capsys.readouterr().out


@pytest.fixture(scope="module")
def tiny():
    return fingerprint(TINY)


def test_blessed_baseline_is_read_back_as_it_was(tmp_path, tiny):
    found = {"tiny": tiny}
    comparison.write_baseline(tmp_path / "b.json", found, "because")
    baseline = comparison.read_baseline(tmp_path / "b.json")
    assert baseline.reason == "because"
    assert baseline.fingerprints == found
    assert comparison.compare(baseline.fingerprints, found) == []


def test_blessing_needs_a_reason_and_all_cases(capsys):
    assert main(["gate", "--bless"]) == 2
    assert "--bless needs --reason" in capsys.readouterr().err
    assert main(["gate", "--bless", "--reason", "x", "--only", "tiny"]) == 2


def test_case_without_a_baseline_is_a_change(tiny):
    (change, *_) = comparison.compare({}, {"new": tiny})
    assert "without a baseline" in str(change)


def test_removed_case_is_a_change(tiny):
    found = {"tiny": tiny}
    (change,) = comparison.compare(found | {"gone": found["tiny"]}, found)
    assert (change.case, change.quantity) == ("gone", "cases of the baseline")


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", '{"schema": "other"}', '{"schema": "foldperf.exact/1"}', "[" * 10**5),
        '{"schema": "foldperf.exact/1", "torch": "2.13", "reason": "", "cases": []}',
        '{"schema": "foldperf.exact/1", "torch": "2.13", "reason": "", "cases": {"a": {'
        '"parameters": {}, "peaks": {}, "costs": ["a b c 1"], "peak": [], "unpriced": []}}}',
    ],
)
def test_baseline_that_cannot_be_read_is_named(tmp_path, text):
    path = tmp_path / "b.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"b\.json"):
        comparison.read_baseline(path)
    with pytest.raises(UsageError, match="no baseline"):
        comparison.read_baseline(tmp_path / "none.json")
