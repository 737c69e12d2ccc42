"""Page of the report: methods of its numbers, findings, comparison with repeated traces."""

import base64
import gzip
import json
import re
from dataclasses import replace

import pytest
from support.measured import measured
from support.traced import TRACES, traced

from analysis.frame import frame
from analysis.methods import MEASURED, METHODS, PREDICTED, TRACED
from analysis.page.findings import find
from analysis.page.front import Front, front_of, retraced
from analysis.page.numbers import MARKS, derived, gigabytes, number, significant
from analysis.page.records import record_rows
from bench.records.agreement import agreement
from bench.records.record import Record
from bench.simulation import predicted, simulated

NUMBER = re.compile(
    r'<a class="number (\w+)" href="#([\w-]+)"[^>]*>[^<]*</a><span class="badge (\w+)">(\w+)</span>'
)


class TestMethods:
    def test_simulated_records_have_no_measured_number(self):
        for record in TRACES:
            for metric, value in record["metrics"].items():
                if value["value"] is not None:
                    assert number(record, metric, "1").method in {TRACED, PREDICTED}, metric
        for row in record_rows(frame(TRACES)):
            assert row.method == TRACED
            assert {cell.method for cell in row.cells if cell} == {TRACED, PREDICTED}

    def test_methods_of_simulations_are_told_apart(self):
        record = traced(384)
        words = {simulated.METHOD: TRACED, predicted.METHOD: PREDICTED}
        for name in ("peak_tracked_bytes", "predicted_step_time_s"):
            assert number(record, name, "").method == words[record["metrics"][name]["method"]]
        assert number(measured(64), "step_time_s", "").method == MEASURED

    def test_derived_number_is_as_uncertain_as_its_least_certain_record(self):
        mixed = derived([measured(64), traced(384)], "peak_tracked_bytes", "2 times")
        assert mixed.method == TRACED
        assert len(mixed.run_ids) == 2
        assert derived([traced(384)], "predicted_step_time_s", "1").method == PREDICTED

    def test_every_number_of_the_page_has_its_method_in_words_and_a_target(self, page):
        text = page.read_text(encoding="utf-8")
        found = NUMBER.findall(text)
        assert len(found) == text.count('<a class="number')
        assert {method for method, *_ in found} == {*METHODS, "published"}
        for method, target, badge, word in found:
            assert method == badge == word
            assert f'id="{target}"' in text
        style = text.split("<style>")[1].split("</style>")[0]
        for method in MARKS:
            assert f".badge.{method} " in style
        assert len(set(MARKS.values())) == len(MARKS)

    def test_no_number_of_a_simulated_record_is_called_measured_on_the_page(self, page):
        text = page.read_text(encoding="utf-8")
        for record in TRACES:
            row = text.split(f'<tr id="record-{record["run_id"]}"')[1].split("</tr>")[0]
            assert 'class="badge traced"' in row
            assert MEASURED not in row


class TestFindings:
    def test_every_finding_states_numbers_of_its_records(self, front):
        assert front.missing == ()
        assert len(front.findings) == 5
        known = {record["run_id"] for record in TRACES}
        for finding in front.findings:
            used = {record["run_id"] for record in finding.records}
            assert used <= known
            linked = {
                run
                for part in finding.sentence
                if not isinstance(part, str)
                for run in part.run_ids
            }
            assert linked
            assert linked <= used

    def test_sentences_have_the_numbers_of_the_records(self, front):
        peak, calls, states, longest, volumes = (finding.text for finding in front.findings)
        assert "From 384 to 3,072 tokens" in peak
        assert "from 11.0 GB (traced) to 262 GB (traced)" in peak
        assert "139 GB (published)" in peak
        assert "39.0 times (traced) as many" in calls
        assert "15.9 GB (traced) of 22.9 GB (traced) are activations" in states
        assert "32 devices hold one of 8,192 tokens (predicted)" in longest
        assert "(predicted)" in volumes

    def test_findings_without_records_are_named(self):
        findings, missing = find([measured(64)])
        assert findings == []
        assert len(missing) == 5
        assert find([])[1] == missing

    def test_page_states_missing_findings_and_the_way_to_them(self, front, page):
        assert "Not shown" not in page.read_text(encoding="utf-8")
        partial = front_of([record for record in TRACES if record["workload"]["ranks"] == 1])
        assert len(partial.findings) == 3
        assert partial.missing == tuple(f.title for f in front.findings[3:])

    def test_smallest_cases_are_traced_again(self, front):
        cases = [record for record in front.records if record["run_id"] in retraced(front)]
        assert {record["workload"]["labels"]["tokens"] for record in cases} == {384}
        assert len(cases) == 3


class TestAgreement:
    @pytest.fixture
    def record(self):
        return Record.from_dict(traced(384))

    def test_equal_counts_agree(self, record):
        result = agreement(record, record, "case", simulated.METHOD)
        assert result.differences == ()
        assert result.compared > 8

    def test_changed_count_names_the_figure_and_the_count(self, front):
        (recorded,) = (r for r in front.findings[0].records if r["run_id"] == retraced(front)[0])
        record = Record.from_dict(recorded)
        metric = record.metrics["peak_tracked_bytes"]
        changed = replace(
            record,
            metrics={**record.metrics, "peak_tracked_bytes": replace(metric, value=1)},
            software={**record.software, "torch": "9.9"},
        )
        result = agreement(record, changed, "the case", simulated.METHOD)
        (sentence,) = Front(front.findings, (), (result,)).disagreements
        assert sentence.startswith(
            "full_peak_memory, full_calls_by_operator: the case traced again"
        )
        assert f"peak_tracked_bytes: recorded {metric.value}, traced again 1" in sentence
        assert "9.9" in sentence

    def test_predicted_numbers_need_not_agree(self, record):
        time = replace(record.metrics["predicted_step_time_s"], value=1.0)
        other = replace(record, metrics={**record.metrics, "predicted_step_time_s": time})
        assert agreement(record, other, "case", simulated.METHOD).differences == ()


def test_page_holds_every_record(page):
    text = page.read_text(encoding="utf-8")
    data = re.search(r'id="data">([^<]*)<', text)[1]
    content = json.loads(gzip.decompress(base64.b64decode(data)))
    rows = re.findall(r'<tr id="record-(\w+)"', text)
    assert sorted(content["records"]) == sorted(rows)
    assert all(content["records"][record["run_id"]] == record for record in TRACES)
    for table in content["tables"].values():
        assert {len(line) for line in table["lines"]} == {len(table["columns"])}
        assert len(table["methods"]) == len(table["lines"])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (9.996, "10.0"), (1234.5, "1,230"), (85.41, "85.4"), (0.01234, "0.0123")],
)
def test_three_digits_are_significant(value, text):
    assert significant(value) == text


def test_devices_are_in_decimal_gigabytes():
    assert gigabytes(141e9) == "141 GB"
    assert gigabytes(11.77e9) == "11.8 GB"
