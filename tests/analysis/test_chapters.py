"""Chapters: numbers equal the records, findings are right, no workload is named in the code."""

import csv
import io
import re

import pytest
from support.measured import MISSING_REASONS, failed, measured, table_of

from analysis.calls import calls_chapters, comparable_rows
from analysis.chapter import missing_note
from analysis.growth import PEAK_MEMORY, STEP_TIME, exponents, growth_chapter
from analysis.memory import (
    BREAKDOWN,
    OTHER,
    OUTSIDE,
    STATES,
    UNATTRIBUTED,
    module_chapter,
    state_chapter,
)
from analysis.phases import merged, phase_chapter
from analysis.quantities import format_percent, format_ratio, format_value, unit_of
from analysis.ranks import rank_chapter
from analysis.series import series_of
from analysis.utilization import ENERGY, UTILIZATION, utilization_chapter
from bench.records.metrics import Value, as_json

DEVICE = {"vendor": "nvidia", "name": "An Accelerator", "kind": "cuda"}
SIZES = (32, 64, 96, 128)


def series(*records):
    return series_of(table_of(records))


def table(chapter):
    return list(csv.DictReader(io.StringIO(chapter.csv())))


def by_run(records):
    return {record["run_id"]: record for record in records}


def sentences(chapter):
    return " ".join(text for figure in chapter.figures for text in figure.findings)


class TestGrowth:
    def test_growth_numbers_equal_the_records(self):
        records = [measured(n, replicate=k) for n in SIZES for k in range(2)]
        lines = table(growth_chapter(series(*records), STEP_TIME, "t", "m"))
        assert {line["run_id"] for line in lines} == set(by_run(records))
        for line in lines:
            metric = by_run(records)[line["run_id"]]["metrics"]["step_time_s"]
            assert float(line["value"]) == metric["value"]
            assert [float(line["low"]), float(line["high"])] == metric["ci"][:2]

    def test_exponents_and_ratios_equal_those_of_the_records(self):
        slow = [measured(n, "fold", exponent=2.5, steps=1) for n in SIZES]
        fast = [measured(n, "text", exponent=1.5, steps=1) for n in (32, 64, 128, 256)]
        chapter = growth_chapter(series(*slow, *fast), STEP_TIME, "t", "m")
        laws = {lines[0].label: lines[-1].law for lines in _exponents(*slow, *fast)}
        assert laws["fold"].exponent == pytest.approx(2.5, abs=0.05)
        assert laws["text"].exponent == pytest.approx(1.5, abs=0.05)
        last = {r["workload"]["name"]: r for r in (slow[-1], fast[2])}
        ratio = _value(last["fold"], "step_time_s") / _value(last["text"], "step_time_s")
        text = f"of fold is {format_ratio(ratio)} that of text at 128 tokens."
        assert text in sentences(chapter)

    def test_ratios_compare_the_largest_series_with_the_others(self):
        records = [
            measured(n, name, exponent=exponent)
            for n in SIZES
            for name, exponent in (("a", 2.0), ("b", 1.0), ("c", 3.0))
        ]
        text = sentences(growth_chapter(series(*records), STEP_TIME, "t", "m"))
        assert text.endswith(" that of b at 128 tokens.")
        assert "of c is " in text
        assert " that of a at 128 tokens, " in text

    def test_failed_size_is_reported_unless_another_case_of_it_succeeded(self):
        records = [measured(n) for n in SIZES] + [failed(256, "oom"), failed(64, "timeout")]
        text = sentences(growth_chapter(series(*records), STEP_TIME, "t", "m"))
        assert "at 256 tokens the case ended as oom" in text
        assert "timeout" not in text

    def test_peak_memory_of_an_accelerator_is_the_allocators(self):
        chapter = growth_chapter(series(measured(32, device=DEVICE)), PEAK_MEMORY, "t", "m")
        assert {line["metric"] for line in table(chapter)} == {"peak_allocated_bytes"}
        chapter = growth_chapter(series(measured(32)), PEAK_MEMORY, "t", "m")
        assert {line["metric"] for line in table(chapter)} == {"peak_resident_bytes"}

    def test_many_series_are_split_into_panels_by_name_and_all_are_plotted(self):
        records = [
            measured(n, "pieces", f"piece {k}", variant=variant)
            for n in SIZES
            for k in range(12)
            for variant in ("a", "b")
        ] + [measured(n) for n in SIZES]
        chapter = growth_chapter(series(*records), STEP_TIME, "t", "m")
        names = [figure.name for figure in chapter.figures]
        assert names == ["step_time", "step_time-pieces", "step_time-pieces-2"]
        assert len(table(chapter)) == len(records)
        assert "Of 18 series" in chapter.figures[1].findings[0]

    def test_many_single_line_names_share_panels(self):
        records = [measured(n, "pieces", f"piece {k}") for n in (32, 64) for k in range(9)]
        (figure,) = growth_chapter(series(*records), STEP_TIME, "t", "m").figures
        (panels,) = figure.draw.args
        assert [len(panel.lines) for panel in panels] == [4, 4, 1]


def _exponents(*records):
    return exponents(series(*records), (PEAK_MEMORY, STEP_TIME))


def _value(record, metric):
    return record["metrics"][metric]["value"]


class TestMemory:
    def test_memory_states_add_up_to_the_peak(self):
        records = [measured(n) for n in SIZES]
        lines = table(state_chapter(series(*records)))
        for run_id, record in by_run(records).items():
            case_lines = [line for line in lines if line["run_id"] == run_id]
            peak = _value(record, "peak_tracked_bytes")
            assert sum(float(line["bytes"]) for line in case_lines) == peak
            assert {float(line["all_bytes"]) for line in case_lines} == {peak}
            for line in case_lines:
                state = f"peak_tracked_bytes.{line['state']}"
                assert float(line["bytes"]) == _value(record, state)

    def test_bytes_without_a_state_are_unattributed(self):
        record = measured(32)
        record["metrics"]["peak_tracked_bytes"]["value"] += 123
        lines = {line["state"]: line["bytes"] for line in table(state_chapter(series(record)))}
        assert lines[UNATTRIBUTED] == "123"

    def test_finding_states_the_largest_state_with_its_share(self):
        record = measured(128)
        parts = {
            name.split(".")[1]: metric["value"]
            for name, metric in record["metrics"].items()
            if name.startswith("peak_tracked_bytes.")
        }
        total = sum(parts.values())
        per_step = total - sum(parts[s] for s in ("parameters", "optimizer", "gradients", "inputs"))
        text = sentences(state_chapter(series(record)))
        assert f"activations ({format_percent(parts['activations'] / total)})" in text
        assert f"allocated within the step is {format_percent(per_step / total)}" in text

    def test_predicted_peak_is_used_when_no_peak_was_tracked(self):
        record = measured(64)
        metrics = {k: v for k, v in record["metrics"].items() if "tracked" not in k}
        values = {"predicted_peak_bytes": Value(30, "m")}
        values |= {f"predicted_peak_bytes.{s}": Value(10, "m") for s in STATES[:3]}
        chapter = state_chapter(series(record | {"metrics": metrics | as_json(values)}))
        assert {line["source"] for line in table(chapter)} == {"predicted_peak_bytes"}
        without = state_chapter(series(record | {"metrics": metrics}))
        assert not without.figures
        assert without.notes

    def test_activations_by_module_add_up_in_table_and_figure(self):
        records = [measured(n) for n in SIZES]
        chapter = module_chapter(series(*records))
        for run_id, record in by_run(records).items():
            by_module = {x["module"]: x["bytes"] for x in table(chapter) if x["run_id"] == run_id}
            expected = {name or OUTSIDE: n for name, n in record["breakdown"][BREAKDOWN].items()}
            assert {name: float(n) for name, n in by_module.items()} == expected
        assert "trunk.module_0 (18 %), then trunk.module_1 (16 %)" in sentences(chapter)
        panel = chapter.figures[0].draw.args[0][0]
        for stack, record in zip(panel.stacks, records, strict=True):
            assert stack.parts[OTHER] > 0
            assert stack.total == sum(record["breakdown"][BREAKDOWN].values())


class TestCalls:
    def test_call_numbers_equal_the_records(self):
        records = [measured(n, calls=c) for n, c in ((32, 64), (64, 640))]
        operators, kernels = calls_chapters(series(*records))
        for line in table(operators):
            record = by_run(records)[line["run_id"]]
            assert float(line["calls"]) == _value(record, f"operator_calls.{line['kind']}")
            assert float(line["all_calls"]) == _value(record, "operator_calls")
        assert not kernels.figures
        assert MISSING_REASONS["kernel_launches"] in kernels.notes[0]

    def test_call_ratio_compares_series_at_the_same_size(self):
        many = [measured(n, "fold", calls=25600) for n in (32, 64, 96)]
        few = [measured(n, "text", calls=256) for n in (32, 64, 2048)]
        both = series(*many, *few)
        compared = comparable_rows([s.ok_rows() for s in both])
        assert [row.tokens for row in compared] == [64, 64]
        text = sentences(calls_chapters(both)[0]).replace("\u00a0", " ")
        total = {
            name: sum(256 * scale // 2 ** (k + 1) for k in range(7))
            for name, scale in (("fold", 100), ("text", 1))
        }
        ratio = format_ratio(total["fold"] / total["text"])
        assert f"fold, N = 64: {total['fold']:,} per step, most of them linear (12,800)" in text
        assert f"text, N = 64: {total['text']:,} per step" in text
        assert f"fold, N = 64 has {ratio} as many" in text

    def test_kernel_launches_are_plotted_for_an_accelerator(self):
        operators, kernels = calls_chapters(series(measured(32, device=DEVICE)))
        assert operators.figures
        assert kernels.figures


class TestPhases:
    def test_phase_table_has_every_sample_of_the_largest_case(self):
        records = [measured(n, steps=60) for n in SIZES]
        chapter = phase_chapter(series(*records))
        lines = table(chapter)
        assert {line["run_id"] for line in lines} == {records[-1]["run_id"]}
        for phase in ("data", "forward", "backward", "optimizer"):
            seconds = [float(line["seconds"]) for line in lines if line["phase"] == phase]
            assert seconds == records[-1]["metrics"][f"phase_time_s.{phase}"]["samples"]
        assert "backward takes 60 % of a step, data 5 %" in sentences(chapter)
        panel = chapter.figures[0].draw.args[0][0]
        assert len(panel.stacks) == 50

    def test_phases_are_in_execution_order(self):
        record = measured(32)
        assert [x["phase"] for x in table(phase_chapter(series(record)))][:4] == [
            *("data", "forward", "backward", "optimizer")
        ]
        notes = {"phases": ["optimizer", "data", "backward", "forward"]}
        chapter = phase_chapter(series(record | {"notes": notes}))
        assert [x["phase"] for x in table(chapter)][:4] == notes["phases"]
        assert merged([["a", "c", "d"], ["b", "c", "x", "d"]]) == ["b", "a", "c", "x", "d"]


class TestUtilization:
    def test_measured_quantities_are_plotted_and_others_have_a_reason(self):
        chapter = utilization_chapter(series(measured(32)), UTILIZATION, "m")
        assert {line["metric"] for line in table(chapter)} == {"achieved_flops", "cpu_busy_pct"}
        assert any(MISSING_REASONS["device_busy_pct"] in note for note in chapter.notes)
        energy = utilization_chapter(series(measured(32), measured(64)), ENERGY, "m")
        assert not energy.figures
        assert (
            energy.notes[0] == "Energy per step is not plotted: no counter under /sys (2 records)."
        )

    def test_all_quantities_of_an_accelerator_are_plotted(self):
        records = [measured(n, device=DEVICE) for n in SIZES]
        for quantities in (UTILIZATION, ENERGY):
            chapter = utilization_chapter(series(*records), quantities, "m")
            assert len(chapter.figures) == 1
            assert not chapter.notes
            assert len(table(chapter)) == len(quantities) * len(SIZES)
        chapter = utilization_chapter(series(*records), UTILIZATION, "m")
        assert {line["metric"] for line in table(chapter)} == {
            *("achieved_flops", "model_flop_utilization", "hardware_flop_utilization"),
            *("ratio_to_roofline", "device_busy_pct", "cpu_busy_pct"),
        }

    def test_equal_reasons_of_ranks_are_merged(self):
        record = measured(32)
        record["metrics"]["energy_per_step_j"]["reason"] = "rank 0: no counter under /sys"
        note = missing_note("Energy", "energy_per_step_j", series(record, measured(64)))
        assert note == "Energy is not plotted: no counter under /sys (2 records)."
        assert "no record has nothing" in missing_note("It", "nothing", series(record))


class TestRanks:
    def test_rank_chapter_has_a_point_for_each_rank_and_the_ratio(self):
        records = [measured(48, ranks=k, steps=1) for k in (1, 2, 4)]
        chapter = rank_chapter(table_of(records))
        lines = [line for line in table(chapter) if line["metric"] == "step_time_s"]
        assert sorted(int(line["ranks"]) for line in lines) == [1, 2, 2, 4, 4, 4, 4]
        for line in lines:
            metric = by_run(records)[line["run_id"]]["metrics"]["step_time_s"]
            expected = (metric["ranks"] or [metric["value"]])[int(line["rank"])]
            assert float(line["value"]) == expected
        ratio = _value(records[2], "step_time_s") / _value(records[0], "step_time_s")
        assert f"step time at 4 ranks is {format_ratio(ratio)} that at 1" in sentences(chapter)
        assert "10 % of the time is spent waiting for the gradient" in sentences(chapter)

    def test_rank_chapter_is_empty_with_a_single_rank(self):
        assert rank_chapter(table_of([measured(48)])).figures == ()


class TestNumberFormats:
    @pytest.mark.parametrize(
        ("value", "kind", "expected"),
        [(2**20, "bytes", "1 MiB"), (1.5e-3, "seconds", "1.5 ms"), (0.31, "share", "31 %"),
         (0, "seconds", "0 µs"), (2**41, "bytes", "2,048 GiB")],
    )  # fmt: skip
    def test_value_is_formatted_with_a_suitable_unit(self, value, kind, expected):
        assert format_value(value, kind) == expected

    def test_unit_follows_the_range_of_values(self):
        assert unit_of("bytes", [2**30, 2**34]).name == "GiB"
        assert unit_of("bytes", [2**20, 2**34]).name == "MiB"
        assert unit_of("seconds", []).name == "µs"
        assert [format_percent(x) for x in (0, 0.004, 0.613)] == ["0 %", "0.4 %", "61 %"]
        assert [format_ratio(x) for x in (1, 34.21, 1234.5)] == [
            "1.00 times",
            "34.2 times",
            "1,234 times",
        ]


def test_analysis_code_names_no_workload():
    from pathlib import Path

    from workloads.catalogue import catalogue

    for path in Path(__file__).resolve().parents[2].joinpath("analysis").iterdir():
        # The one is about a run of training, the other lists cases by their workloads.
        if path.suffix in {".py", ".j2"} and path.stem not in {"learning", "published_matches"}:
            text = path.read_text(encoding="utf-8")
            for name in catalogue().workloads:
                assert not re.search(rf"[\"']{re.escape(name)}[\"']", text), (path.name, name)


class TestHostPrograms:
    def test_pipelines_have_memory_figures_of_their_own(self):
        model, pipeline = [measured(n) for n in SIZES], [measured(n, "loading") for n in SIZES]
        for record in pipeline:
            record["facts"] = {**record["facts"], "step_flops": 0}
        both = series(*model, *pipeline)
        chapters = (growth_chapter(both, PEAK_MEMORY, "t", "m"), state_chapter(both))
        for chapter in chapters:
            names = [figure.name for figure in chapter.figures]
            assert names == [chapter.name, f"{chapter.name}-host"]
        (together,) = growth_chapter(both, STEP_TIME, "t", "m").figures
        assert together.name == "step_time"
