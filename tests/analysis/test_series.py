"""Records as rows and series, and which series share a figure."""

import csv
import io

from hypothesis import given, settings
from hypothesis import strategies as st
from support.measured import failed, measured

from analysis.series import labels, series_of, shares
from analysis.table import cases_as_csv, newest, rows


def several(count, workload="fold", **more):
    return [measured(32 + k, workload, f"{workload} {k}", **more) for k in range(count)]


class TestTable:
    def test_every_record_is_a_row_with_every_metric(self):
        records = [measured(n) for n in (64, 32)] + [failed(128, "oom")]
        table = rows(records)
        assert [row.tokens for row in table] == [32, 64, 128]
        read = list(csv.DictReader(io.StringIO(cases_as_csv(table))))
        for row, line in zip(table, read, strict=True):
            assert line["run_id"] == row.record["run_id"]
            for name, metric in row.record["metrics"].items():
                if "." not in name:
                    value = metric["value"]
                    assert line[name] == ("" if value is None else str(value)), name
        assert read[2]["status"] == "oom"
        assert read[2]["step_time_s"] == ""

    def test_the_newest_record_of_a_case_on_a_machine_stays(self):
        old = measured(32, started_at="2026-01-01T00:00:00+00:00")
        new = old | {"started_at": "2026-02-01T00:00:00+00:00", "run_id": "f" * 32}
        other = old | {"host": old["host"] | {"hostname_hash": "other"}}
        two = old | {"workload": old["workload"] | {"ranks": 2}}
        assert newest([new, old]) == [new]
        assert len(newest([new, old, other, two])) == 3

    def test_ranks_and_parts_are_read(self):
        (row,) = rows([measured(32, ranks=3)])
        assert row.ranks == 3
        assert len(row.each_rank("step_time_s")) == 3
        assert row.each_rank("peak_resident_bytes") == [row.value("peak_resident_bytes")]
        assert sum(row.parts("peak_tracked_bytes").values()) == row.value("peak_tracked_bytes")
        assert row.value("energy_per_step_j") is None
        assert "no counter" in row.reason_of("energy_per_step_j")


class TestLabels:
    def test_what_all_share_is_not_said(self):
        assert labels(rows([measured(32)])) == ["fold"]
        table = rows([measured(32), measured(32, variant="triton, float32")])
        assert labels(table) == ["fold (reference)", "fold (triton)"]
        assert labels(table, named=False) == ["reference", "triton"]

    def test_devices_and_ranks_are_told_apart(self):
        device = {"vendor": "nvidia", "name": "A Device", "kind": "cuda"}
        found = labels(rows([measured(32), measured(32, ranks=2), measured(32, device=device)]))
        assert found == ["fold (A Device)", "fold (a cpu)", "fold (a cpu; 2 ranks)"]

    def test_two_workloads_that_call_a_series_the_same_are_told_apart(self):
        found = labels(rows([measured(32, "one", "same"), measured(32, "two", "same")]))
        assert len(set(found)) == 2


class TestShares:
    @settings(max_examples=25, deadline=None)
    @given(
        st.lists(st.tuples(st.sampled_from("ABCDE"), st.integers(0, 9)), max_size=24),
        st.integers(2, 7),
    )
    def test_nothing_is_lost_uncounted_and_no_figure_overflows(self, names, most):
        records = [TEMPLATES[workload, number] for workload, number in set(names)]
        series = series_of(rows(records))
        found = shares(series, most)
        assert all(len(share.series) <= most for share in found)
        assert len({share.suffix for share in found}) == len(found)
        by_workload = {each.workload for each in series}
        for name in by_workload:
            own = [each for each in series if each.workload == name]
            inside = [
                len(share.series) + share.left_out
                for share in found
                if {each.workload for each in share.series} == {name}
            ]
            drawn = {each.label for share in found for each in share.series}
            assert len(own) in inside or {each.label for each in own} <= drawn
        if len(by_workload) <= most and found:
            assert {each.workload for each in found[0].series} == by_workload

    def test_few_series_share_one_figure(self):
        series = series_of(rows(several(3, "one") + several(3, "two")))
        (share,) = shares(series, 6)
        assert len(share.series) == 6
        assert share.suffix == ""

    def test_of_one_name_one_comes_before_another_of_the_next(self):
        records = [
            measured(32, "pieces", f"piece {k}", variant=variant)
            for k in range(4)
            for variant in ("a", "b", "c")
        ]
        (share,) = shares(series_of(rows(records)), 4)
        assert len({each.rows[0].series for each in share.series}) == 4
        assert share.left_out == 8

    def test_odd_names_of_workloads_make_files_of_their_own(self):
        records = several(4, "a/b") + several(4, "a b") + several(4, "Ä")
        suffixes = [share.suffix for share in shares(series_of(rows(records)), 3)]
        assert len(set(suffixes)) == 4
        assert not any(c in suffix for suffix in suffixes for c in "/ Ä")


TEMPLATES = {(w, k): measured(32 + k, w, f"{w}{k}") for w in "ABCDE" for k in range(10)}


def test_a_typical_row_is_one_of_the_rows():
    times = [measured(32, replicate=k, exponent=2 + 0.1 * k) for k in range(4)]
    (series,) = series_of(rows(times))
    (row,) = series.typical(lambda row: row.value("step_time_s"))
    ordered = sorted(row.value("step_time_s") for row in series.rows)
    assert row.value("step_time_s") == ordered[1]
    assert row in series.rows
    assert series.typical(lambda row: None) == []
