"""Recorded cases that are traced again: equal counts, and the status of a changed one."""

import json

import pytest
from support.traced import TRACES

from bench.cli import main
from bench.records.reading import read_records
from bench.simulation.retrace import retrace
from bench.simulation.simulated import simulated_record
from bench.simulation.traces import SimulatedCase, simulate
from workloads.catalogue import catalogue


@pytest.fixture
def record():
    """Record of a traced operator."""
    workload = catalogue()["operators"]
    config = workload.configure({"operator": "transition", "preset": "tiny", "tokens": 16})
    case = SimulatedCase("operators", config)
    (costs,) = simulate([case], 1, remember=False)
    return simulated_record(case, costs)


def test_recorded_case_agrees_when_traced_again(record):
    first, second = retrace([record, record])
    assert first == second
    assert first.differences == ()
    assert first.compared > 20
    assert "operator=transition" in first.case


@pytest.fixture
def reports(monkeypatch, tmp_path):
    """Return a function that writes a report of traces, whose page is replaced by its front."""

    def run(*options):
        fronts = []

        def write_report(records, out, *, front, **others):
            fronts.append(front)
            return out / "index.html"

        monkeypatch.setattr("analysis.report.write_report", write_report)
        path = tmp_path / "results" / "recorded" / "paper.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(r) + "\n" for r in TRACES), encoding="utf-8")
        status = main(["report", str(path), "--results", str(tmp_path / "results"), *options])
        return status, fronts

    return run


def test_report_without_repeated_traces_compares_nothing(reports):
    status, (front,) = reports()
    assert status == 0
    assert len(front.findings) == 5
    assert front.agreements == ()


def test_changed_count_gives_status_1_and_a_line_that_names_the_figure(
    reports, monkeypatch, capsys
):
    asked = []

    def changed(records):
        from bench.records.agreement import Agreement, Difference

        asked.extend(records)
        difference = Difference("operator_calls", 1, 2)
        return [Agreement(record.run_id, "case", 9, (difference,)) for record in records]

    monkeypatch.setattr("bench.simulation.retrace.retrace", changed)
    status, (front,) = reports("--retrace")
    assert status == 1
    assert {record.workload.config["tokens"] for record in asked} == {384}
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == front.disagreements
    assert "full_calls_by_operator" in lines[1]
    assert "operator_calls: recorded 1, traced again 2" in lines[1]


def test_equal_counts_give_status_0(reports, monkeypatch):
    monkeypatch.setattr("bench.simulation.retrace.retrace", lambda records: [])
    assert reports("--retrace")[0] == 0


def test_retracing_without_recorded_traces_is_an_error(tmp_path, capsys, record):
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(record.as_dict()) + "\n", encoding="utf-8")
    status = main(["report", str(path), "--results", str(tmp_path), "--retrace"])
    assert status == 2
    assert "--findings" in capsys.readouterr().err
    assert len(list(read_records([path]))) == 1
