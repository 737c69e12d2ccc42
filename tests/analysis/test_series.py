"""Rows and series of records, and the distribution of series over figures."""

import csv
import io

from hypothesis import given, settings
from hypothesis import strategies as st
from support.measured import failed, measured, table_of

from analysis.columns import column_name
from analysis.frame import frame
from analysis.series import labels, series_of, shares
from analysis.table import as_csv, exported, newest, rows


def series_records(count, workload="fold", **more):
    return [measured(32 + k, workload, f"{workload} {k}", **more) for k in range(count)]


class TestTable:
    def test_table_has_a_row_with_every_metric_for_each_record(self):
        records = [measured(n) for n in (64, 32)] + [failed(128, "oom")]
        table = table_of(records)
        assert table["tokens"].tolist() == [row.tokens for row in rows(table)] == [32, 64, 128]
        read = list(csv.DictReader(io.StringIO(as_csv(exported(table)))))
        for record, line in zip(table["record"], read, strict=True):
            assert line["run_id"] == record["run_id"]
            for name, metric in record["metrics"].items():
                if "." not in name:
                    value = metric["value"]
                    column = column_name(name, metric["unit"])
                    assert line[column] == ("" if value is None else str(value)), name
        assert read[2]["status"] == "oom"
        assert read[2]["step_time_s"] == ""

    def test_newest_selects_one_record_of_each_case_and_machine(self):
        old = measured(32, started_at="2026-01-01T00:00:00+00:00")
        new = old | {"started_at": "2026-02-01T00:00:00+00:00", "run_id": "f" * 32}
        other = old | {"host": old["host"] | {"hostname_hash": "other"}}
        two = old | {"workload": old["workload"] | {"ranks": 2}}
        assert newest(frame([new, old]))["record"].tolist() == [new]
        assert len(newest(frame([new, old, other, two]))) == 3

    def test_newest_compares_moments_of_different_time_zones(self):
        early = measured(32, started_at="2026-01-01T12:00:00+09:00")
        late = early | {"started_at": "2026-01-01T04:00:00+00:00", "run_id": "f" * 32}
        assert newest(frame([late, early]))["run_id"].tolist() == [late["run_id"]]

    def test_row_reads_ranks_parts_and_reasons(self):
        (row,) = rows(table_of([measured(32, ranks=3)]))
        assert row.ranks == 3
        assert len(row.rank_values("step_time_s")) == 3
        assert row.rank_values("peak_resident_bytes") == [row.value("peak_resident_bytes")]
        assert sum(row.parts("peak_tracked_bytes").values()) == row.value("peak_tracked_bytes")
        assert row.value("energy_per_step_j") is None
        assert "no counter" in row.reason_of("energy_per_step_j")


class TestLabels:
    def test_labels_omit_shared_details(self):
        assert labels(rows(table_of([measured(32)]))) == ["fold"]
        table = rows(table_of([measured(32), measured(32, variant="triton, float32")]))
        assert labels(table) == ["fold (reference)", "fold (triton)"]
        assert labels(table, named=False) == ["reference", "triton"]

    def test_labels_distinguish_devices_and_ranks(self):
        device = {"vendor": "nvidia", "name": "A Device", "kind": "cuda"}
        names = labels(
            rows(table_of([measured(32), measured(32, ranks=2), measured(32, device=device)]))
        )
        assert names == ["fold (A Device)", "fold (a cpu)", "fold (a cpu; 2 ranks)"]

    def test_labels_distinguish_workloads_with_equal_series_names(self):
        names = labels(rows(table_of([measured(32, "one", "same"), measured(32, "two", "same")])))
        assert len(set(names)) == 2


class TestShares:
    @settings(max_examples=25, deadline=None)
    @given(
        st.lists(st.tuples(st.sampled_from("ABCDE"), st.integers(0, 9)), max_size=24),
        st.integers(2, 7),
    )
    def test_shares_count_every_series_and_respect_the_limit(self, names, most):
        records = [TEMPLATES[workload, number] for workload, number in set(names)]
        series = series_of(table_of(records))
        figures = shares(series, most)
        assert all(len(share.series) <= most for share in figures)
        assert len({share.suffix for share in figures}) == len(figures)
        by_workload = {s.workload for s in series}
        for name in by_workload:
            members = [s for s in series if s.workload == name]
            inside = [
                len(share.series) + share.left_out
                for share in figures
                if {s.workload for s in share.series} == {name}
            ]
            plotted = {s.label for share in figures for s in share.series}
            assert len(members) in inside or {s.label for s in members} <= plotted
        if len(by_workload) <= most and figures:
            assert {s.workload for s in figures[0].series} == by_workload

    def test_few_series_share_one_figure_without_suffix(self):
        series = series_of(table_of(series_records(3, "one") + series_records(3, "two")))
        (share,) = shares(series, 6)
        assert len(share.series) == 6
        assert share.suffix == ""

    def test_every_name_has_a_series_before_any_has_a_second(self):
        records = [
            measured(32, "pieces", f"piece {k}", variant=variant)
            for k in range(4)
            for variant in ("a", "b", "c")
        ]
        (share,) = shares(series_of(table_of(records)), 4)
        assert len({s.rows[0].series for s in share.series}) == 4
        assert share.left_out == 8

    def test_odd_workload_names_have_distinct_suffixes(self):
        records = series_records(4, "a/b") + series_records(4, "a b") + series_records(4, "Ä")
        suffixes = [share.suffix for share in shares(series_of(table_of(records)), 3)]
        assert len(set(suffixes)) == 4
        assert not any(c in suffix for suffix in suffixes for c in "/ Ä")


TEMPLATES = {(w, k): measured(32 + k, w, f"{w}{k}") for w in "ABCDE" for k in range(10)}


def test_typical_row_is_the_lower_median():
    format_ratio = [measured(32, replicate=k, exponent=2 + 0.1 * k) for k in range(4)]
    (series,) = series_of(table_of(format_ratio))
    (row,) = series.typical(lambda row: row.value("step_time_s"))
    ordered = sorted(row.value("step_time_s") for row in series.rows)
    assert row.value("step_time_s") == ordered[1]
    assert row in series.rows
    assert series.typical(lambda row: None) == []
