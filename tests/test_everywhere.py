"""Registered workloads appear in every command, and the code names none of them."""

import ast
import csv
import json
from pathlib import Path

import pytest
from support.example import install
from support.records import valid_records

from workloads.catalogue import catalogue

ROOT = Path(__file__).resolve().parents[1]
# They train the reference system, whatever else is measured.
TRAINERS = {"train.py", "learn.py", "learning.py", "fold.py"}
# They list cases, as a sweep does: those that correspond to published numbers, and the paper's.
LISTS = {"published_cases.py", "published_matches.py", "paper_cases.py"}
SWEEP = """
[protocol]
warmup_steps = 0
timed_steps = 3
energy_s = 1
[[case]]
workload = "local-attention"
selection = "quick"
"""


@pytest.fixture
def example(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    return install(folder)


def test_foreign_workload_is_listed_described_and_swept(foldperf, example):
    listed = json.loads(foldperf("list", "--json", paths=[example], check=0).stdout)
    assert listed["workloads"]["local-attention"]["axes"]["tokens"]["default"] == 1024
    facts = foldperf("describe", "local-attention", "--json", paths=[example], check=0)
    assert json.loads(facts.stdout)["parameters"] == 4 * 64 * 64 + 4 * 64
    quick = foldperf("run", "quick", "--dry-run", paths=[example], check=0).stdout
    assert "local-attention tokens=4096" in quick


def test_foreign_workload_is_measured_reported_and_exported(foldperf, tmp_path, example):
    (tmp_path / "mine.toml").write_text(SWEEP, encoding="utf-8")
    foldperf("run", "mine.toml", paths=[example], check=0)
    records = valid_records(tmp_path / "results/runs/mine/records.jsonl")
    assert [record["status"] for record in records] == ["ok"] * 3
    attention = records[0]["metrics"]["operator_calls.attention"]
    assert attention["value"] == 2
    for record in records:
        metrics, facts = record["metrics"], record["facts"]
        assert metrics["predicted_peak_bytes"]["value"] == metrics["peak_tracked_bytes"]["value"]
        # Attention is counted; the static costs include a gradient of the input, which is not
        # needed.
        assert 0.8 < metrics["hardware_flops"]["value"] / facts["step_flops"] <= 1
    foldperf("report", check=0)
    with (tmp_path / "results/report/table.csv").open(encoding="utf-8") as table:
        assert {row["series"] for row in csv.DictReader(table)} == {"local-attention"}
    assert "local-attention" in (tmp_path / "results/report/index.html").read_text(encoding="utf-8")
    exported = foldperf("export", "asv", "results/runs", "--out", "asv")
    if records[0]["git"]["dirty"]:
        assert exported.returncode == 2
    else:
        assert "local" in (tmp_path / "asv" / "benchmarks.json").read_text(encoding="utf-8")


def test_foreign_workload_is_gated(foldperf, tmp_path, example):
    refused = foldperf("gate", "--only", "local-attention", paths=[example], check=1)
    assert "local-attention tokens=4096" in refused.stdout
    assert "without a baseline" in refused.stdout
    (tmp_path / "cases.toml").write_text(
        '[[case]]\nworkload = "local-attention"\nselection = "exact"\n', encoding="utf-8"
    )
    mine = ("--cases", "cases.toml", "--baseline", "mine.json", "--jobs", "1")
    foldperf("gate", *mine, "--bless", "--reason", "first", paths=[example], check=0)
    foldperf("gate", *mine, paths=[example], check=0)


def test_harness_and_analysis_name_no_workload():
    """Examples in help texts excepted: measuring and reporting treat all workloads alike."""
    names = set(catalogue().workloads)
    for package in ("bench", "analysis"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name in TRAINERS | LISTS:
                continue
            for text, line in strings_of(path):
                named = text in names or "alphafold3" in text
                assert not named, f"{path.relative_to(ROOT)}:{line} names a workload"


def strings_of(path):
    """String constants of a file, without docstrings and the command line's examples."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) or (
            isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "EXAMPLE"
        ):
            skipped |= {id(each) for each in ast.walk(node.value)}
    for node in ast.walk(tree):
        text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if text and id(node) not in skipped:
            yield node.value, node.lineno
