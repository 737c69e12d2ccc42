"""Tables of the report: every number of the records that a figure has, and no other."""

import csv
import io
from collections import Counter
from pathlib import Path

import pytest

from analysis import load_records
from analysis.growth import PEAK_MEMORY, STEP_TIME, exponent_table, exponents
from analysis.report import _chapters
from analysis.series import series_of
from analysis.table import newest

RECORDED = Path(__file__).resolve().parents[2] / "results" / "recorded"
PEAK, LAUNCHES = "peak_tracked_bytes", "operator_calls"


@pytest.fixture(scope="module")
def table():
    names = ("demo-2-core-cpu", "sharding-2-core-cpu")
    return newest(load_records(RECORDED / f"{name}.jsonl" for name in names))


@pytest.fixture(scope="module")
def series(table):
    return series_of(table)


@pytest.fixture(scope="module")
def chapters(table, series):
    return {chapter.name: chapter for chapter in _chapters(series, table, [])}


@pytest.fixture(scope="module")
def records(table):
    return {record["run_id"]: record for record in table["record"]}


def lines(chapter):
    return list(csv.DictReader(io.StringIO(chapter.csv())))


def runs(chapter):
    return Counter(line["run_id"] for line in lines(chapter))


def metric(record, name):
    return record["metrics"].get(name, {"value": None, "ci": None, "samples": [], "ranks": []})


@pytest.mark.parametrize("name", ["peak_memory", "step_time", "utilization", "phase_times"])
def test_lines_begin_with_the_series_and_end_with_the_record(chapters, records, name):
    for line in lines(chapters[name]):
        record = records[line["run_id"]]
        labels = record["workload"]["labels"]
        assert list(line)[:5] == ["workload", "series", "variant", "device", "ranks"]
        assert list(line)[-1] == "run_id"
        assert (line["workload"], line["series"], line["variant"], int(line["tokens"])) == (
            *(record["workload"]["name"], labels["series"], labels["variant"], labels["tokens"]),
        )


@pytest.mark.parametrize("name", ["peak_memory", "step_time", "utilization"])
def test_curves_have_the_value_and_interval_of_each_record(chapters, records, name):
    table = lines(chapters[name])
    for line in table:
        entry = metric(records[line["run_id"]], line["metric"])
        low, high = (entry["ci"] or ("", ""))[:2]
        assert float(line["value"]) == entry["value"]
        assert (line["unit"], line["low"], line["high"]) == (entry["unit"], str(low), str(high))
    for quantity in {line["metric"] for line in table}:
        found = {line["run_id"] for line in table if line["metric"] == quantity}
        measured = {run for run in records if metric(records[run], quantity)["value"] is not None}
        assert found == measured


def test_states_are_the_parts_of_the_peak(chapters, records):
    for line in lines(chapters["memory_by_state"]):
        metrics = records[line["run_id"]]["metrics"]
        assert line["source"] == PEAK
        assert float(line["bytes"]) == metrics[f"{PEAK}.{line['state']}"]["value"]
        assert float(line["all_bytes"]) == metrics[PEAK]["value"]
    for run, count in runs(chapters["memory_by_state"]).items():
        assert count == sum(name.startswith(f"{PEAK}.") for name in records[run]["metrics"])


def test_modules_are_those_of_the_breakdown(chapters, records):
    name = "activation_bytes_by_module"
    for line in lines(chapters["activations_by_module"]):
        counts = records[line["run_id"]]["breakdown"][name]
        module = "" if line["module"] == "outside modules" else line["module"]
        assert float(line["bytes"]) == counts[module]
        assert float(line["all_bytes"]) == sum(counts.values())
    for run, count in runs(chapters["activations_by_module"]).items():
        assert count == len(records[run]["breakdown"][name])


def test_calls_are_the_parts_of_operator_calls(chapters, records):
    for line in lines(chapters["operator_calls_by_kind"]):
        metrics = records[line["run_id"]]["metrics"]
        assert float(line["calls"]) == metrics[f"{LAUNCHES}.{line['kind']}"]["value"]
        assert float(line["all_calls"]) == metrics[LAUNCHES]["value"]
    for run, count in runs(chapters["operator_calls_by_kind"]).items():
        assert count == sum(name.startswith(f"{LAUNCHES}.") for name in records[run]["metrics"])


def test_phases_have_every_sample(chapters, records):
    for line in lines(chapters["phase_times"]):
        phase = records[line["run_id"]]["metrics"][f"phase_time_s.{line['phase']}"]
        assert float(line["seconds"]) == phase["samples"][int(line["step"]) - 1]
    for run, count in runs(chapters["phase_times"]).items():
        metrics = records[run]["metrics"]
        of_phases = [metrics[name] for name in metrics if name.startswith("phase_time_s.")]
        assert count == sum(len(phase["samples"]) for phase in of_phases)


@pytest.mark.parametrize("name", ["ranks", "context_ranks"])
def test_ranks_have_the_value_of_each(chapters, records, name):
    table = lines(chapters[name])
    assert len(table) > 10
    for line in table:
        record = records[line["run_id"]]
        entry = metric(record, line["metric"])
        values = [value for value in entry["ranks"] if value is not None] or [entry["value"]]
        assert float(line["value"]) == values[int(line["rank"])]
        assert int(line["ranks"]) == record["workload"]["ranks"]


def test_typical_record_of_a_size_has_the_lower_median(series, chapters):
    table = chapters["memory_by_state"].table
    for one in series:
        for (tokens,), line in table[table["run_id"].isin(_runs(one))].groupby(["tokens"]):
            peaks = sorted(row.value(PEAK) for row in one.ok_rows() if row.tokens == tokens)
            assert line["all_bytes"].iloc[0] == peaks[(len(peaks) - 1) // 2]


def _runs(series):
    return [row.record["run_id"] for row in series.rows]


def test_exponents_are_those_of_the_fitted_lines(series):
    laws = [line for fitted in exponents(series, (PEAK_MEMORY, STEP_TIME)) for line in fitted]
    table = exponent_table(laws)
    assert table["exponent"].tolist() == [line.law.exponent for line in laws if line.law]
    assert table["metric"].isin(["peak_resident_bytes", "step_time_s"]).all()
