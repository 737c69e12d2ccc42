"""Views of records: fits, tables, figures, the page."""

import copy
import csv
import io
import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.errors import AnalysisError
from analysis.figures import PEAK_MEMORY, STEP_TIME, series_of
from analysis.report import write_report
from analysis.scaling import fit_power_law, largest_sizes
from analysis.table import as_csv, rows
from bench.metrics import Value, as_json, missing


def record(tokens, time=None, peak=None, status="ok", series="toy tiny", replicate=0, **more):
    started_at = more.pop("started_at", "2026-01-01T00:00:00+00:00")
    values = {
        "step_time_s": Value(time, "m") if time else missing("did not run"),
        "peak_resident_bytes": Value(peak, "m") if peak else missing("did not run"),
        "energy_per_step_j": missing("no counter"),
    }
    return {
        "schema": "foldperf.record/1",
        "run_id": f"{tokens}{status}{series}",
        "key": "k",
        "status": status,
        "reason": None if status == "ok" else "it grew <too> large",
        "sweep": "toy",
        "replicate": replicate,
        "cell_id": f"{tokens}{series}",
        "started_at": started_at,
        "workload": {
            "name": "toy",
            "config": {"tokens": tokens, "entry": "1ubq"},
            "labels": {"tokens": tokens, "series": series, "variant": "reference"},
        },
        "git": {"sha": "abcdef0123" * 4, "dirty": True},
        "devices": [{"name": "A Device", "vendor": "none", "uuid_hash": None}],
        "host": {"hostname_hash": "h", "cpu": "a cpu", "cores": 2, "memory_bytes": 2**34},
        "software": {"python": "3.11", "torch": "2.13"},
        "metrics": as_json(values) if status == "ok" else {},
    } | more


SIZES = (32, 64, 96, 128)
RECORDS = [record(n, time=1e-6 * n**2.5, peak=1000.0 * n**2) for n in SIZES]


class TestFit:
    @given(st.floats(0.5, 4), st.floats(1e-6, 1e6), st.integers(3, 8))
    def test_an_exact_law_is_recovered(self, exponent, factor, count):
        points = [(2.0**k, factor * 2.0 ** (k * exponent)) for k in range(count)]
        law = fit_power_law(points)
        assert law.exponent == pytest.approx(exponent, abs=1e-6)
        assert law.at(64) == pytest.approx(factor * 64**exponent, rel=1e-4)
        assert law.interval[0] <= law.exponent <= law.interval[1]

    def test_constants_at_small_sizes_do_not_count(self):
        points = [(n, 5e5 + n**3) for n in (8, 16, 32, 512, 640, 768, 1024)]
        law = fit_power_law(points)
        assert (law.smallest, law.largest) == (512, 1024)
        assert law.exponent == pytest.approx(3, abs=0.01)

    def test_largest_sizes(self):
        assert largest_sizes([32, 64, 96, 128, 128]) == [64, 96, 128]
        assert largest_sizes([1, 10, 100, 1000]) == [10, 100, 1000]

    def test_too_little_is_no_law(self):
        assert fit_power_law([]) is None
        assert fit_power_law([(8, 1.0), (8, 2.0)]) is None
        assert fit_power_law([(8, 1.0), (16, 2.0)]).interval is None


class TestTable:
    def test_csv_has_every_record_and_empty_cells(self):
        table = rows([*RECORDS, record(256, status="oom")])
        found = list(csv.DictReader(io.StringIO(as_csv(table))))
        assert [row["tokens"] for row in found] == ["32.0", "64.0", "96.0", "128.0", "256.0"]
        assert found[-1]["status"] == "oom"
        assert found[-1]["step_time_s"] == ""
        assert float(found[0]["peak_resident_bytes"]) == 1000 * 32**2
        assert found[0]["commit"] == "abcdef01*"


class TestSeries:
    def test_medians_points_and_failures(self):
        repeated = [record(64, time=t, peak=1.0) for t in (3.0, 1.0, 2.0)]
        table = rows([*repeated, record(128, time=4.0, peak=1.0), record(256, status="oom")])
        (line,) = series_of(table, STEP_TIME)
        assert line.tokens == (64, 128)
        assert line.values == (2.0, 4.0)
        assert len(line.points) == 4
        assert line.failed == ((256, "oom"),)

    def test_a_size_that_once_went_well_has_not_failed(self):
        table = rows([record(64, time=1.0, peak=1.0), record(64, status="timeout")])
        assert series_of(table, STEP_TIME)[0].failed == ()

    def test_variants_and_devices_are_lines_of_their_own(self):
        other = [copy.deepcopy(each) for each in RECORDS]
        for each in other:
            each["devices"][0]["name"] = "B Device"
        lines = series_of(rows([*RECORDS, *other]), PEAK_MEMORY)
        assert len({line.label for line in lines}) == 2


class TestReport:
    @pytest.fixture
    def page(self, tmp_path):
        failed = [record(256, status="oom"), record(512, status="timeout", series="<b>other</b>")]
        return write_report([*RECORDS, *failed], tmp_path / "out")

    def test_is_self_contained(self, page):
        text = page.read_text()
        assert "http" not in re.sub(r"data:image/png;base64,[^\"]*", "", text)
        assert text.count("data:image/png;base64,") == 2
        assert "<script" not in text

    def test_says_what_was_found_and_what_was_not_measured(self, page):
        text = page.read_text()
        assert "growing as N^2.50" in text
        assert "at 256 tokens the case ended as oom" in text
        assert "energy_per_step_j" in text
        assert "no counter" in text
        assert "it grew &lt;too&gt; large" in text
        assert "&lt;b&gt;other" in text

    def test_figures_are_files_for_print(self, page):
        folder = page.parent
        for name in ("peak_memory", "step_time"):
            pdf = (folder / f"{name}.pdf").read_bytes()
            assert b"/Type3" not in pdf, "fonts that submission systems refuse"
            assert b"abcdef01" in pdf, "the source is in the metadata"
            png = (folder / f"{name}.png").read_bytes()
            width, _ = struct.unpack(">II", png[16:24])
            assert width == pytest.approx(3.5 * 300, abs=2)
            assert (folder / f"{name}.svg").exists()
        assert (folder / "table.csv").read_text().count("\n") == 7

    def test_is_the_same_to_the_byte(self, page, tmp_path):
        failed = [record(256, status="oom"), record(512, status="timeout", series="<b>other</b>")]
        again = write_report([*RECORDS, *failed], tmp_path / "again")
        for path in page.parent.iterdir():
            assert path.read_bytes() == (again.parent / path.name).read_bytes(), path.name

    def test_the_newest_record_of_a_case_is_shown(self, tmp_path):
        old = [record(n, time=9.0, peak=1.0, run_id=f"old{n}") for n in SIZES]
        new = [
            each | {"started_at": "2026-02-02T00:00:00+00:00"}
            for each in (*RECORDS, record(32, time=1.0, peak=1.0, replicate=1))
        ]
        text = write_report([*new, *old], tmp_path).read_text()
        assert "leaving out 4 that newer ones of the same case replace" in text
        found = list(csv.DictReader((tmp_path / "table.csv").open()))
        assert len(found) == 5
        assert "9" not in {row["step_time_s"] for row in found}

    def test_nothing_to_report_and_nowhere_to_write(self, tmp_path):
        with pytest.raises(AnalysisError, match="no records"):
            write_report([], tmp_path)
        (tmp_path / "file").write_text("")
        with pytest.raises(AnalysisError, match=r"file"):
            write_report(RECORDS, tmp_path / "file")

    def test_only_failures_make_a_page_without_figures(self, tmp_path):
        text = write_report([record(256, status="oom")], tmp_path).read_text()
        assert "<img" not in text
        assert "it grew" in text
