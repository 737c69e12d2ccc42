"""DataFrame of records: every number of the records, typed, by name and unit."""

import io
import re
import shutil
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest
from support.measured import failed, measured, table_of

from analysis import load_records
from analysis.columns import column_name, numbers
from analysis.errors import AnalysisError
from analysis.frame import frame
from analysis.methods import MEASURED, METHODS, PREDICTED, TRACED, method_of
from analysis.nested import breakdown, metric_values, parts, rank_values, samples, telemetry
from analysis.table import as_csv, as_parquet, exported, newest
from bench.records.metrics import METRICS, OF_SIMULATIONS
from bench.simulation import predicted, simulated

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "results" / "recorded"
# Simulated cases, and measured ones of one rank and of several.
FILES = [RECORDED / f"{name}.jsonl" for name in ("predictions", "sharding-2-core-cpu")]


@pytest.fixture(scope="module")
def table():
    return load_records(FILES)


def record_with(config=(), labels=(), **more):
    record = measured(32)
    workload = record["workload"]
    changed = {"config": workload["config"] | dict(config)}
    changed["labels"] = workload["labels"] | dict(labels)
    return record | {"workload": workload | changed} | more


def equal(cell, value):
    return pd.isna(cell) if value is None else cell == value


class TestFrame:
    def test_every_metric_of_every_record_is_in_its_column(self, table):
        for index, record in table["record"].items():
            for name, metric in record["metrics"].items():
                if "." in name:
                    continue
                column = column_name(name, metric["unit"])
                low, high = (metric["ci"] or (None, None))[:2]
                expected = {
                    **{"": metric["value"], "_low": low, "_high": high, "_n": metric["n"]},
                    **{"_quality": metric["quality"], "_method_text": metric["method"]},
                    **{"_reason": metric["reason"], "_flags": "; ".join(metric["flags"]) or None},
                }
                for end, value in expected.items():
                    if value is not None or column + end in table:
                        assert equal(table[column + end][index], value), (column, end)

    def test_every_axis_of_every_record_is_a_column(self, table):
        for index, record in table["record"].items():
            for name, value in record["workload"]["config"].items():
                assert table[name][index] == value, name

    def test_columns_have_types_and_text_numbers_and_moments_are_told_apart(self, table):
        kinds = {str(kind) for name, kind in table.dtypes.items() if name != "record"}
        assert kinds <= {"category", "string", "Int64", "float64", "boolean", "datetime64[us, UTC]"}
        for column, kind in {
            **{"workload": "category", "tokens": "Int64", "dirty": "boolean", "reason": "string"},
            **{"step_time_s": "float64", "peak_tracked_bytes": "Int64", "chunk_rows": "Int64"},
            **{"started_at": "datetime64[us, UTC]", "checkpointing": "boolean"},
        }.items():
            assert table[column].dtype == kind, column

    def test_frame_of_no_records_has_the_identity(self):
        empty = frame([])
        assert len(empty) == 0
        assert {"workload", "tokens", "method", "started_at", "record"} <= set(empty.columns)
        assert len(metric_values(empty)) == len(parts(empty, "step_time_s")) == 0

    def test_columns_do_not_depend_on_the_order_of_records(self):
        one = record_with(config={"b": 1, "a": 2}, outcome={"loss": 1.0})
        two = record_with(config={"c": 1}, outcome={"accuracy": 1.0})
        assert frame([one, two]).columns.tolist() == frame([two, one]).columns.tolist()

    def test_taken_name_of_an_axis_has_a_prefix(self):
        table = frame([record_with(config={"status": "liquid", "costs": 3})])
        assert table["status"].tolist() == ["ok"]
        assert table["config_status"].tolist() == ["liquid"]
        assert table["costs"].tolist() == [3]

    def test_taken_name_of_a_metric_has_a_prefix(self):
        record = measured(32)
        metrics = record["metrics"] | {"status": record["metrics"]["cpu_busy_pct"] | {"unit": "1"}}
        config = record["workload"]["config"] | {"cpu_busy_pct": "an axis"}
        workload = record["workload"] | {"config": config}
        table = frame([record | {"metrics": metrics, "workload": workload}])
        assert table["status"].tolist() == ["ok"]
        assert table["metric_status"].tolist() == table["cpu_busy_pct"].tolist() == [97.0]
        assert table["config_cpu_busy_pct"].tolist() == ["an axis"]

    @pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:00:00-14:00"])
    def test_ends_of_the_calendar_are_read(self, moment):
        table = frame([measured(32, started_at=moment)])
        expected = datetime.fromisoformat(moment).timestamp()
        assert table["started_at"].astype("int64").tolist() == [pytest.approx(expected * 1e6)]
        as_csv(exported(newest(table)))
        as_parquet(exported(table))

    def test_labels_of_any_type_are_read(self):
        table = frame([record_with(labels={"tokens": "many", "series": 3, "remark": True})])
        assert table["tokens"].isna().all()
        assert table["series"].tolist() == ["3"]
        assert table["label_remark"].tolist() == [True]

    def test_failed_case_has_a_reason_and_no_numbers(self):
        table = table_of([measured(32), failed(64, "oom")])
        assert table["status"].tolist() == ["ok", "oom"]
        assert table["reason"].tolist()[1] == "it <grew>"
        assert table["step_time_s"].notna().tolist() == [True, False]
        assert table["method"].tolist() == [MEASURED, MEASURED]


class TestColumns:
    def test_metric_columns_end_with_their_unit(self):
        suffixes = {
            "s": "_s",
            "B": "_bytes",
            "J": "_j",
            "W": "_w",
            "%": "_pct",
            "tokens": "_tokens",
        }
        suffixes |= {"FLOP": "_flops", "FLOP/s": "_flops_per_s", "1": ""}
        columns = {name: column_name(name, kind.unit) for name, kind in METRICS.items()}
        for name, column in columns.items():
            assert column.endswith(suffixes[METRICS[name].unit]), column
        renamed = {name: column for name, column in columns.items() if name != column}
        assert renamed == {"achieved_flops": "achieved_flops_per_s"}
        assert column_name("speed", "tokens/s") == "speed_tokens_s"

    def test_numbers_are_integers_only_if_all_are(self):
        assert numbers([1, None, 2**60 + 1]).tolist() == [1, pd.NA, 2**60 + 1]
        assert numbers([1, 2.5]).dtype == "float64"
        assert numbers([10**23, None]).dtype == "float64"
        assert pd.isna(numbers([True, "x"])).all()


class TestMethod:
    def test_simulated_records_are_traced_and_their_times_predicted(self, table):
        simulation = table["sweep"] == "simulation"
        assert set(table["method"][simulation]) == {TRACED}
        assert set(table["method"][~simulation]) == {MEASURED}
        assert set(table["predicted_step_time_s_method"].dropna()) == {PREDICTED}
        assert set(table["peak_tracked_bytes_method"][simulation]) == {TRACED}
        assert set(table["step_time_s_method"].dropna()) == {MEASURED}
        # A measured record has numbers of a trace, too.
        assert set(table["predicted_peak_bytes_method"].dropna()) == {TRACED}

    def test_no_number_of_a_simulation_passes_for_measured(self, table):
        values = metric_values(table[table["sweep"] == "simulation"])
        present = values[values["value"].notna()]
        assert set(present["method"]) == {TRACED, PREDICTED}

    def test_methods_of_the_simulation_are_recognized(self):
        assert method_of("peak_tracked_bytes", simulated.METHOD) == TRACED
        for name in OF_SIMULATIONS:
            assert method_of(name, predicted.METHOD) == PREDICTED
        assert method_of("predicted_of_another_model", "any words") == PREDICTED
        assert method_of("roofline_bound_s.bytes", "any words") == PREDICTED
        assert METHODS == (MEASURED, TRACED, PREDICTED)


class TestNested:
    def test_metric_values_have_every_number_and_part(self, table):
        values = metric_values(table, also=["context_ranks"])
        expected = [
            (record["run_id"], name, metric["value"])
            for record in table["record"]
            for name, metric in record["metrics"].items()
        ]
        read = zip(values["run_id"], values["metric"], values["value"], strict=True)
        for found, (run, name, value) in zip(read, expected, strict=True):
            assert found[:2] == (run, name)
            assert equal(found[2], value)

    def test_parts_samples_and_ranks_have_every_number(self, table):
        times = samples(table, "phase_time_s").groupby(["run_id", "part"], observed=True)
        times = times["phase_time_s"].agg(list)
        peaks = parts(table, "peak_tracked_bytes")
        peaks = peaks.set_index(["run_id", "part"])["peak_tracked_bytes"]
        steps = rank_values(table, "step_time_s").groupby("run_id")["step_time_s"].agg(list)
        for record in table["record"]:
            run, metrics = record["run_id"], record["metrics"]
            for name, metric in metrics.items():
                whole, _, part = name.partition(".")
                if whole == "phase_time_s" and metric["samples"]:
                    assert times[run, part] == metric["samples"]
                if whole == "peak_tracked_bytes" and part:
                    assert peaks[run, part] == metric["value"]
            of_ranks = metrics["step_time_s"]["ranks"] or [metrics["step_time_s"]["value"]]
            expected = [value for value in of_ranks if value is not None]
            assert steps.get(run, []) == expected

    @pytest.mark.parametrize(
        ("name", "what", "count"),
        [
            ("activation_bytes_by_module", "module", "activation_bytes"),
            ("calls_by_operator", "operator", "calls"),
            ("flops_by_phase", "phase", "flops"),
            ("collective_bytes", "operator", "collective_bytes"),
        ],
    )
    def test_breakdown_has_every_count(self, table, name, what, count):
        found = breakdown(table, name)
        assert found[what].notna().all()
        by_run = found.groupby("run_id")[count].sum()
        for record in table["record"]:
            counts = record["breakdown"].get(name) or {"": 0}
            assert by_run.get(record["run_id"], 0) == sum(counts.values())

    def test_breakdowns_are_found_in_costs_and_notes_too(self, table):
        assert set(breakdown(table, "predicted_s_by_term").columns) >= {"term", "predicted_s"}
        components = breakdown(table, "components").groupby("run_id")["parameters"].sum()
        for record in table["record"]:
            assert components[record["run_id"]] == sum(record["facts"]["components"].values())

    def test_telemetry_has_every_reading(self):
        record = measured(32) | {"telemetry": {"temperature_c": [40.0, 41.5]}}
        found = telemetry(frame([record]))
        assert found["value"].tolist() == [40.0, 41.5]

    def test_selection_has_its_own_rows_alone(self, table):
        selected = table[table["workload"] == "alphafold3-trunk"]
        assert set(parts(selected, "operator_calls")["workload"]) == {"alphafold3-trunk"}


class TestFiles:
    def test_csv_has_the_same_numbers(self, table):
        read = pd.read_csv(io.StringIO(as_csv(exported(table))), low_memory=False)
        assert read.columns.tolist() == [name for name in table if name != "record"]
        for name in table.select_dtypes(["Int64", "float64"]):
            left, right = table[name].dropna().tolist(), read[name].dropna().tolist()
            assert left == right, name

    def test_parquet_has_the_same_table(self, table):
        read = pd.read_parquet(io.BytesIO(as_parquet(exported(table))))
        pd.testing.assert_frame_equal(read, exported(table), check_categorical=False)


class TestLoading:
    def test_file_folder_and_list_are_read_once(self, tmp_path):
        copy = shutil.copy(RECORDED / "iterations-2-core-cpu.jsonl", tmp_path / "a.jsonl")
        alone = load_records(str(copy))
        assert len(alone) == len(load_records(tmp_path)) == len(load_records([tmp_path, copy])) == 3
        # The file is of the earlier schema.
        assert set(alone["record"].map(lambda record: record["schema"])) == {"foldperf.record/2"}

    def test_errors_name_the_file_and_line(self, tmp_path):
        with pytest.raises(AnalysisError, match=r"none\.jsonl: No such file"):
            load_records(tmp_path / "none.jsonl")
        with pytest.raises(AnalysisError, match="no records; run a sweep"):
            load_records([tmp_path])
        path = tmp_path / "torn.jsonl"
        path.write_text('{"schema": 1}\n{}\n', encoding="utf-8")
        with pytest.raises(AnalysisError, match=r"torn\.jsonl: line 1: not a record"):
            load_records(path)


def test_example_code_of_the_guide_runs(monkeypatch, capsys):
    page = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "load_rec" in c]
    monkeypatch.chdir(ROOT)
    exec(compile(code, "records.md", "exec"), {})
    assert "NVIDIA H200" in capsys.readouterr().out
