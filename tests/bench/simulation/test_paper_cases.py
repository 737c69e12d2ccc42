"""Simulated cases of the paper: configurations exist, ideas are left out, records are kept."""

import pytest

from bench.records.reading import read_records
from bench.simulation import paper_cases
from bench.simulation.paper_cases import GROUPS, IDEAS, PaperGroup, activations_by_path, main
from refsys.costs.storages import Peak
from refsys.costs.trace import Trace
from refsys.ops.backend import OPERATORS
from workloads.catalogue import catalogue

TINY = {"operator": "transition", "preset": "tiny", "tokens": 8, "backend": "triton"}


def test_every_case_is_a_configuration_and_none_is_listed_twice():
    seen = [
        (group.workload, group.idea, catalogue()[group.workload].configure({**group.axes, **axes}))
        for group in GROUPS
        for axes in group.cases
    ]
    assert all(seen.count(case) == 1 for case in seen)


def test_ideas_name_operators():
    names = [name for operators in IDEAS.values() for name in operators]
    assert set(names) <= set(OPERATORS)
    assert len(set(names)) == len(names)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Replace the cases by one of a single operator, fused and without an idea."""
    monkeypatch.setenv("FOLDPERF_HOME", str(tmp_path / "home"))
    groups = (
        PaperGroup("operators", TINY, [{}], with_paths=True),
        PaperGroup("operators", TINY, [{}], idea="fused transition"),
    )
    monkeypatch.setattr(paper_cases.paper_records, "__defaults__", (groups,))


def test_cases_are_recorded_once(tiny, tmp_path):
    out = tmp_path / "paper.jsonl"
    assert main(["--out", str(out)]) == main(["--out", str(out)]) == 0
    fused, partial = read_records([out])
    assert fused.cell_id != partial.cell_id
    assert partial.workload.labels["variant"].endswith("without fused transition")
    assert partial.value("kernel_launches") > fused.value("kernel_launches")
    paths = fused.notes["activation_bytes_by_path"]
    states = ("activations", "recomputed")
    parts = [fused.value(f"peak_tracked_bytes.{state}") or 0 for state in states]
    assert sum(paths.values()) == sum(parts)


def test_small_activations_are_under_no_name():
    origins = {("activations", "a", "x"): 10_000, ("recomputed", "b", "y"): 1}
    trace = Trace({}, Peak(10_001, {}, origins), {})
    assert activations_by_path(trace) == {"": 1, "a": 10_000}
