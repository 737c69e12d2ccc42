"""Cells of a frontier with scripted runs, and one with real ones."""

import json
import math
from dataclasses import asdict
from functools import cache

import pytest
from support.records import VALIDATOR, a_record, parsed

from bench.cli import main
from bench.errors import UsageError
from bench.frontier import cells as cells_module
from bench.frontier.cells import Frontier, Space
from bench.frontier.memory import Memory, find_memory
from bench.frontier.records import cell_record, store_cell
from bench.frontier.runs import CaseRuns, judged
from bench.records.metrics import Value, as_json
from bench.records.reading import read_records
from workloads.catalogue import catalogue
from workloads.errors import WorkloadError

GIB = 2**30
LIMIT = Memory("cpu", "cpu", 2 * GIB, "cpu")
BASELINE = GIB // 4
WORKLOAD = catalogue()["alphafold3-trunk"]


def space(most=64, variants=None, ranks=(1,)):
    variants = {"default": {}} if variants is None else variants
    return Space(WORKLOAD, {"preset": "tiny"}, variants, ranks, 32, most)


def peak_bytes(tokens):
    return 6000 * tokens**2


@cache
def facts():
    costs = asdict(WORKLOAD.static_costs(WORKLOAD.configure({"tokens": 8, "entry": "synthetic"})))
    return costs | {"notes": list(costs["notes"])}


def ok_record(number, peak, ranks=1):
    metrics = {
        "step_time_s": Value(1.0, "clock"),
        "baseline_resident_bytes": Value(BASELINE, "m"),
        "peak_resident_bytes": Value(peak, "m"),
        "first_step_peak_resident_bytes": Value(peak // 2, "m"),
    }
    record = a_record(number)
    return parsed(
        record
        | {"status": "ok", "reason": None, "metrics": as_json(metrics), "facts": facts()}
        | {"workload": record["workload"] | {"ranks": ranks}}
    )


def failed_record(number, status, watched=2 * GIB):
    record = a_record(number, status)
    return parsed(record | {"protocol": record["protocol"] | {"watched_resident_bytes": watched}})


class ScriptedRuns:
    """Runs whose cases need `peak_bytes` over the baseline; some lengths end otherwise."""

    def __init__(self, statuses=None, *, unnoticed=False):
        self.statuses, self.unnoticed, self.tokens = statuses or {}, unnoticed, []

    def record(self, config, ranks):
        tokens = config.run.data.tokens
        self.tokens.append(tokens)
        if tokens in self.statuses:
            return failed_record(tokens, self.statuses[tokens])
        peak = peak_bytes(tokens)
        if BASELINE + peak > LIMIT.nbytes and not self.unnoticed:
            return failed_record(tokens, "oom")
        return ok_record(tokens, peak, ranks)


# Largest multiple of the tile whose peak and baseline are within the limit.
EDGE = math.isqrt((LIMIT.nbytes - BASELINE) // 6000) // 32 * 32


@pytest.fixture(autouse=True)
def traced(monkeypatch):
    """Traced peaks that are those of the scripted runs."""

    def peak(workload, config):
        return peak_bytes(config.run.data.tokens)

    monkeypatch.setattr(cells_module, "traced_peak_bytes", peak)


def the_cell(runs, *, measured=True, **about):
    (cell,) = Frontier(space(**about), LIMIT, runs).cells(measured=measured)
    return cell


def test_predicted_and_measured_edges_agree_where_the_trace_is_right():
    runs = ScriptedRuns()
    cell = the_cell(runs)
    assert cell.tokens(cell.predicted) == cell.tokens(cell.measured) == EDGE
    assert runs.tokens == [32, EDGE, EDGE + 32]
    assert cell.expected_bytes(EDGE // 32) == cell.runs[EDGE // 32].peak_bytes
    assert cell.as_json()["first_failing_status"] == "oom"


def test_prediction_alone_runs_the_shortest_case_for_its_baseline():
    runs = ScriptedRuns()
    cell = the_cell(runs, measured=False)
    assert (cell.tokens(cell.predicted), cell.measured, runs.tokens) == (EDGE, None, [32])


def test_peak_that_the_guard_missed_is_above_the_limit():
    cell = the_cell(ScriptedRuns(unnoticed=True))
    run = cell.failing_run
    assert cell.tokens(cell.measured) == EDGE
    assert (run.status, run.peak_is_lower_bound) == ("oom", False)
    assert "exceeded the limit of 2 GiB" in run.reason


def test_peak_of_a_stopped_case_is_a_lower_bound():
    cell = the_cell(ScriptedRuns())
    assert cell.failing_run.peak_is_lower_bound
    assert cell.failing_run.peak_bytes == 2 * GIB
    many = failed_record(1, "oom", watched=9 * GIB)
    shared = parsed(
        a_record(1)
        | {"workload": a_record(1)["workload"] | {"ranks": 4}}
        | {"protocol": a_record(1)["protocol"] | {"watched_resident_bytes": 9 * GIB}}
    )
    assert judged(32, many, LIMIT).peak_bytes == 9 * GIB
    # Less the launcher's, and the mean over ranks.
    assert judged(32, shared, LIMIT).peak_bytes == 2 * GIB


@pytest.mark.parametrize("status", ["timeout", "crash"])
@pytest.mark.parametrize("offset", [-32, 0, 32])
def test_hang_or_crash_at_the_edge_does_not_end_the_search(status, offset):
    cell = the_cell(ScriptedRuns({EDGE + offset: status}))
    assert EDGE - 32 <= cell.tokens(cell.measured) <= EDGE
    if offset >= 0:
        assert cell.runs[(EDGE + offset) // 32].status == status
    assert len(cell.runs) <= 2 * math.log2(64)
    assert not cell.fault


def test_shortest_case_that_crashes_is_a_fault_and_one_out_of_memory_is_not():
    crash = the_cell(ScriptedRuns(dict.fromkeys(range(32, 4096, 32), "crash")))
    assert crash.fault == "crash: it grew"
    assert "baseline" in crash.unpredicted
    none = the_cell(ScriptedRuns(dict.fromkeys(range(32, 4096, 32), "oom")))
    assert (none.tokens(none.measured), none.fault) == (0, "")


def test_cases_that_all_fit_leave_the_edge_open():
    cell = the_cell(ScriptedRuns(), most=4)
    assert (cell.tokens(cell.measured), cell.failing_run) == (128, None)
    metrics = cell_record(cell, space(most=4), LIMIT).metrics
    assert metrics["longest_tokens"].flags == ("no longer case was allowed",)


def test_workload_that_cannot_be_traced_is_measured_all_the_same(monkeypatch):
    def fail(workload, config):
        raise RuntimeError("no\ntrace")

    monkeypatch.setattr(cells_module, "traced_peak_bytes", fail)
    cell = the_cell(ScriptedRuns())
    assert (cell.predicted, cell.unpredicted) == (None, "RuntimeError: no trace")
    assert cell.tokens(cell.measured) == EDGE
    record = cell_record(cell, space(), LIMIT)
    assert record.metrics["predicted_longest_tokens"].reason == "RuntimeError: no trace"


def test_accelerator_is_predicted_without_a_run():
    memory = find_memory(None, 80.0, measured=False)
    (one, four) = Frontier(space(most=2048, ranks=(1, 4)), memory, None).cells(measured=False)
    assert one.baseline.origin.startswith("assumed")
    assert 0 < four.predicted.longest < one.predicted.longest, "communication takes memory"


def test_record_of_a_cell_is_valid_and_the_same_for_every_edge(tmp_path):
    cell, other = the_cell(ScriptedRuns()), the_cell(ScriptedRuns({EDGE: "crash"}))
    records = [cell_record(each, space(), LIMIT) for each in (cell, other)]
    runs = CaseRuns(WORKLOAD, LIMIT, 1.0, tmp_path, tmp_path, catalogue())
    for record in records:
        VALIDATOR.validate(record.as_dict())
        store_cell(record, runs)
    assert (
        records[0].value("longest_tokens") == records[0].value("predicted_longest_tokens") == EDGE
    )
    assert records[1].value("longest_tokens") == EDGE - 32
    assert records[0].cell_id == records[1].cell_id
    assert records[0].workload == records[1].workload
    assert read_records([runs.folder / "records.jsonl"]) == [records[1]], "the latest remains"
    wider = cell_record(cell, space(), Memory("cpu", "cpu", 4 * GIB, "cpu"))
    assert wider.cell_id != records[0].cell_id


def test_axes_that_a_frontier_varies_are_refused():
    with pytest.raises(UsageError, match="tokens is what"):
        Space(WORKLOAD, {"tokens": 8}, {"default": {}}, (1,), 32, 8)
    with pytest.raises(UsageError, match="take --context-ranks"):
        space(variants={"a": {"context_ranks": 2}})
    with pytest.raises(WorkloadError, match="no axis 'nonsense'"):
        space(variants={"a": {"nonsense": 2}})
    with pytest.raises(UsageError, match="no axis tokens"):
        Space(catalogue()["device-rates"], {}, {"default": {}}, (1,), 32, 8)


class TestCommand:
    def test_prediction_is_printed_and_as_json(self, capsys):
        words = ["frontier", "alphafold3-trunk", "preset=tiny", "--cycles", "2", "--memory", "80"]
        words += ["--variants", "default", "checkpointing=false", "--context-ranks", "1", "4"]
        assert main(words) == 0
        out = capsys.readouterr().out
        assert out.count("checkpointing=false") == 2
        assert "assumed: 1 GiB of context" in out
        assert main([*words, "--json"]) == 0
        table = json.loads(capsys.readouterr().out)
        assert [cell["context_ranks"] for cell in table["frontier"]] == [1, 4, 1, 4]
        assert table["frontier"][2]["config"]["checkpointing"] is False
        assert table["frontier"][0]["config"]["cycles"] == 2
        assert table["frontier"][0]["predicted_longest_tokens"] % 32 == 0

    @pytest.mark.parametrize(
        ("words", "reason"),
        [
            (["--tokens", "8", "--memory", "8"], "tokens is what"),
            (["--memory", "no"], "invalid"),
            (["--memory", "8", "--variants", "fast"], "expected AXIS=VALUE"),
            (["--memory", "8", "--retry", "never"], "choose one of"),
            (["--memory", "8", "--most-tokens", "8"], "less than --tile 32"),
            (["--memory", "8", "8"], "expected --AXIS VALUE"),
            (["--device", "h9000"], "is not listed"),
        ],
    )
    def test_bad_input_is_one_line_and_status_2(self, words, reason, capsys):
        assert main(["frontier", "alphafold3-trunk", *words]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert reason in lines[0]

    def test_help_is_also_given_after_the_workload(self, capsys):
        assert main(["frontier", "alphafold3-trunk", "--help"]) == 0
        assert "--most-tokens" in capsys.readouterr().out
