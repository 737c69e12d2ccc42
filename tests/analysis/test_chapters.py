"""Chapters: their numbers are the records', their sentences are right, nothing knows a workload."""

import csv
import io
import re

import pytest
from support.measured import NOT_HERE, failed, measured

from analysis.calls import calls_chapters, compared
from analysis.chapter import why_missing
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
from analysis.quantities import percent, times, unit_of, written
from analysis.ranks import rank_chapter
from analysis.series import series_of
from analysis.table import rows
from analysis.utilization import ENERGY, UTILIZATION, use_chapter
from bench.records.metrics import Value, as_json

DEVICE = {"vendor": "nvidia", "name": "An Accelerator", "kind": "cuda"}
SIZES = (32, 64, 96, 128)


def series(*records):
    return series_of(rows(records))


def table(chapter):
    return list(csv.DictReader(io.StringIO(chapter.csv())))


def by_run(records):
    return {record["run_id"]: record for record in records}


def sentences(chapter):
    return " ".join(text for figure in chapter.figures for text in figure.findings)


class TestGrowth:
    def test_its_numbers_are_the_records(self):
        records = [measured(n, replicate=k) for n in SIZES for k in range(2)]
        lines = table(growth_chapter(series(*records), STEP_TIME, "t", "m"))
        assert {line["run_id"] for line in lines} == set(by_run(records))
        for line in lines:
            metric = by_run(records)[line["run_id"]]["metrics"]["step_time_s"]
            assert float(line["value"]) == metric["value"]
            assert [float(line["low"]), float(line["high"])] == metric["ci"][:2]

    def test_exponents_and_ratios_are_right(self):
        slow = [measured(n, "fold", exponent=2.5, steps=1) for n in SIZES]
        fast = [measured(n, "text", exponent=1.5, steps=1) for n in (64, 128, 256)]
        made = growth_chapter(series(*slow, *fast), STEP_TIME, "t", "m")
        found = {lines[0].label: lines[-1].law for lines in _exponents(*slow, *fast)}
        assert found["fold"].exponent == pytest.approx(2.5, abs=0.05)
        assert found["text"].exponent == pytest.approx(1.5, abs=0.05)
        last = {r["workload"]["name"]: r for r in (slow[-1], fast[1])}
        ratio = _value(last["fold"], "step_time_s") / _value(last["text"], "step_time_s")
        assert f"of fold over that of text {times(ratio)} at 128 tokens." in sentences(made)

    def test_the_one_that_takes_most_is_compared_with_the_others(self):
        records = [
            measured(n, name, exponent=exponent)
            for n in SIZES
            for name, exponent in (("a", 2.0), ("b", 1.0), ("c", 3.0))
        ]
        found = sentences(growth_chapter(series(*records), STEP_TIME, "t", "m"))
        assert "of c over that of a " in found
        assert ", of b " in found

    def test_a_size_that_failed_is_said_and_one_that_once_went_well_is_not(self):
        records = [measured(n) for n in SIZES] + [failed(256, "oom"), failed(64, "timeout")]
        found = sentences(growth_chapter(series(*records), STEP_TIME, "t", "m"))
        assert "at 256 tokens the case ended as oom" in found
        assert "timeout" not in found

    def test_an_accelerators_peak_is_its_allocators(self):
        made = growth_chapter(series(measured(32, device=DEVICE)), PEAK_MEMORY, "t", "m")
        assert {line["metric"] for line in table(made)} == {"peak_allocated_bytes"}
        made = growth_chapter(series(measured(32)), PEAK_MEMORY, "t", "m")
        assert {line["metric"] for line in table(made)} == {"peak_resident_bytes"}

    def test_many_series_are_panels_by_name_and_none_is_left_out(self):
        records = [
            measured(n, "pieces", f"piece {k}", variant=variant)
            for n in (32, 64)
            for k in range(12)
            for variant in ("a", "b")
        ] + [measured(n) for n in SIZES]
        made = growth_chapter(series(*records), STEP_TIME, "t", "m")
        names = [figure.name for figure in made.figures]
        assert names == ["step_time", "step_time-pieces", "step_time-pieces-2"]
        assert len(table(made)) == len(records)
        assert "Of 18 series" in made.figures[1].findings[0]

    def test_many_names_of_one_line_each_share_panels(self):
        records = [measured(n, "pieces", f"piece {k}") for n in (32, 64) for k in range(9)]
        (figure,) = growth_chapter(series(*records), STEP_TIME, "t", "m").figures
        (panels,) = figure.draw.args
        assert [len(panel.lines) for panel in panels] == [4, 4, 1]


def _exponents(*records):
    return exponents(series(*records), (PEAK_MEMORY, STEP_TIME))


def _value(record, metric):
    return record["metrics"][metric]["value"]


class TestMemory:
    def test_states_add_up_to_the_peak(self):
        records = [measured(n) for n in SIZES]
        lines = table(state_chapter(series(*records)))
        for run_id, record in by_run(records).items():
            mine = [line for line in lines if line["run_id"] == run_id]
            peak = _value(record, "peak_tracked_bytes")
            assert sum(float(line["bytes"]) for line in mine) == peak
            assert {float(line["all_bytes"]) for line in mine} == {peak}
            for line in mine:
                state = f"peak_tracked_bytes.{line['state']}"
                assert float(line["bytes"]) == _value(record, state)

    def test_what_no_state_claims_is_a_part_of_its_own(self):
        record = measured(32)
        record["metrics"]["peak_tracked_bytes"]["value"] += 123
        lines = {line["state"]: line["bytes"] for line in table(state_chapter(series(record)))}
        assert lines[UNATTRIBUTED] == "123"

    def test_the_largest_state_is_said_with_its_share(self):
        record = measured(128)
        parts = {
            name.split(".")[1]: each["value"]
            for name, each in record["metrics"].items()
            if name.startswith("peak_tracked_bytes.")
        }
        whole = sum(parts.values())
        made = whole - sum(parts[s] for s in ("parameters", "optimizer", "gradients", "inputs"))
        text = sentences(state_chapter(series(record)))
        assert f"activations ({percent(parts['activations'] / whole)})" in text
        assert f"what the step itself makes is {percent(made / whole)}" in text

    def test_a_predicted_peak_stands_in_for_one_that_was_not_followed(self):
        record = measured(64)
        metrics = {k: v for k, v in record["metrics"].items() if "tracked" not in k}
        values = {"predicted_peak_bytes": Value(30, "m")}
        values |= {f"predicted_peak_bytes.{s}": Value(10, "m") for s in STATES[:3]}
        made = state_chapter(series(record | {"metrics": metrics | as_json(values)}))
        assert {line["source"] for line in table(made)} == {"predicted_peak_bytes"}
        without = state_chapter(series(record | {"metrics": metrics}))
        assert not without.figures
        assert without.notes

    def test_modules_add_up_whether_drawn_or_not(self):
        records = [measured(n) for n in SIZES]
        made = module_chapter(series(*records))
        for run_id, record in by_run(records).items():
            mine = {x["module"]: x["bytes"] for x in table(made) if x["run_id"] == run_id}
            expected = {name or OUTSIDE: n for name, n in record["breakdown"][BREAKDOWN].items()}
            assert {name: float(n) for name, n in mine.items()} == expected
        assert "trunk.module_0 (18 %), then trunk.module_1 (16 %)" in sentences(made)
        panel = made.figures[0].draw.args[0][0]
        for stack, record in zip(panel.stacks, records, strict=True):
            assert stack.parts[OTHER] > 0
            assert stack.whole == sum(record["breakdown"][BREAKDOWN].values())


class TestCalls:
    def test_calls_are_the_records(self):
        records = [measured(n, calls=c) for n, c in ((32, 64), (64, 640))]
        made, kernels = calls_chapters(series(*records))
        for line in table(made):
            record = by_run(records)[line["run_id"]]
            assert float(line["calls"]) == _value(record, f"operator_calls.{line['kind']}")
            assert float(line["all_calls"]) == _value(record, "operator_calls")
        assert not kernels.figures
        assert NOT_HERE["kernel_launches"] in kernels.notes[0]

    def test_a_ratio_is_of_the_same_size(self):
        many = [measured(n, "fold", calls=25600) for n in (32, 64, 96)]
        few = [measured(n, "text", calls=256) for n in (32, 64, 2048)]
        found = series(*many, *few)
        chosen = compared([each.well() for each in found])
        assert [row.tokens for row in chosen] == [64, 64]
        text = sentences(calls_chapters(found)[0]).replace("\u00a0", " ")
        total = {
            name: sum(256 * scale // 2 ** (k + 1) for k in range(7))
            for name, scale in (("fold", 100), ("text", 1))
        }
        ratio = times(total["fold"] / total["text"])
        assert f"fold, N = 64: {total['fold']:,} in a step, most of them linear (12,800)" in text
        assert f"text, N = 64: {total['text']:,} in a step" in text
        assert f"fold, N = 64 has {ratio} as many" in text

    def test_kernels_of_an_accelerator_are_drawn_too(self):
        operators, kernels = calls_chapters(series(measured(32, device=DEVICE)))
        assert operators.figures
        assert kernels.figures


class TestPhases:
    def test_every_sample_of_the_largest_case_is_there(self):
        records = [measured(n, steps=60) for n in SIZES]
        made = phase_chapter(series(*records))
        lines = table(made)
        assert {line["run_id"] for line in lines} == {records[-1]["run_id"]}
        for phase in ("data", "forward", "backward", "optimizer"):
            seconds = [float(line["seconds"]) for line in lines if line["phase"] == phase]
            assert seconds == records[-1]["metrics"][f"phase_time_s.{phase}"]["samples"]
        assert "backward takes 60 % of a step, data 5 %" in sentences(made)
        panel = made.figures[0].draw.args[0][0]
        assert len(panel.stacks) == 50

    def test_phases_are_in_the_order_in_which_they_run(self):
        record = measured(32)
        assert [x["phase"] for x in table(phase_chapter(series(record)))][:4] == [
            *("data", "forward", "backward", "optimizer")
        ]
        notes = {"phases": ["optimizer", "data", "backward", "forward"]}
        made = phase_chapter(series(record | {"notes": notes}))
        assert [x["phase"] for x in table(made)][:4] == notes["phases"]
        assert merged([["a", "c", "d"], ["b", "c", "x", "d"]]) == ["b", "a", "c", "x", "d"]


class TestUse:
    def test_what_is_measured_is_drawn_and_the_rest_has_its_reason(self):
        made = use_chapter(series(measured(32)), UTILIZATION, "m")
        assert {line["metric"] for line in table(made)} == {"achieved_flops", "cpu_busy_pct"}
        assert any(NOT_HERE["device_busy_pct"] in note for note in made.notes)
        energy = use_chapter(series(measured(32), measured(64)), ENERGY, "m")
        assert not energy.figures
        assert (
            energy.notes[0] == "Energy of a step is not drawn: no counter under /sys (2 records)."
        )

    def test_an_accelerator_has_it_all(self):
        records = [measured(n, device=DEVICE) for n in SIZES]
        for quantities in (UTILIZATION, ENERGY):
            made = use_chapter(series(*records), quantities, "m")
            assert len(made.figures) == 1
            assert not made.notes
            assert len(table(made)) == len(quantities) * len(SIZES)
        made = use_chapter(series(*records), UTILIZATION, "m")
        assert {line["metric"] for line in table(made)} == {
            *("achieved_flops", "model_flop_utilization", "hardware_flop_utilization"),
            *("times_floor", "device_busy_pct", "cpu_busy_pct"),
        }

    def test_ranks_that_say_the_same_say_it_once(self):
        record = measured(32)
        record["metrics"]["energy_per_step_j"]["reason"] = "rank 0: no counter under /sys"
        found = why_missing("Energy", "energy_per_step_j", series(record, measured(64)))
        assert found == "Energy is not drawn: no counter under /sys (2 records)."
        assert "no record has nothing" in why_missing("It", "nothing", series(record))


class TestRanks:
    def test_every_rank_is_a_point_and_the_ratio_is_right(self):
        records = [measured(48, ranks=k, steps=1) for k in (1, 2, 4)]
        made = rank_chapter(rows(records))
        lines = [line for line in table(made) if line["metric"] == "step_time_s"]
        assert sorted(int(line["ranks"]) for line in lines) == [1, 2, 2, 4, 4, 4, 4]
        for line in lines:
            metric = by_run(records)[line["run_id"]]["metrics"]["step_time_s"]
            expected = (metric["ranks"] or [metric["value"]])[int(line["rank"])]
            assert float(line["value"]) == expected
        ratio = _value(records[2], "step_time_s") / _value(records[0], "step_time_s")
        assert f"time of a step at 4 ranks {times(ratio)} that at 1" in sentences(made)
        assert "10 % waits" in sentences(made)

    def test_one_rank_is_no_figure(self):
        assert rank_chapter(rows([measured(48)])).figures == ()


class TestWords:
    @pytest.mark.parametrize(
        ("value", "kind", "expected"),
        [(2**20, "bytes", "1 MiB"), (1.5e-3, "seconds", "1.5 ms"), (0.31, "share", "31 %"),
         (0, "seconds", "0 µs"), (2**41, "bytes", "2,048 GiB")],
    )  # fmt: skip
    def test_units(self, value, kind, expected):
        assert written(value, kind) == expected

    def test_the_unit_suits_the_range(self):
        assert unit_of("bytes", [2**30, 2**34]).name == "GiB"
        assert unit_of("bytes", [2**20, 2**34]).name == "MiB"
        assert unit_of("seconds", []).name == "µs"
        assert [percent(x) for x in (0, 0.004, 0.613)] == ["0 %", "0.4 %", "61 %"]
        assert [times(x) for x in (1, 34.21, 1234.5)] == ["1.00 times", "34.2 times", "1,234 times"]


def test_no_figure_knows_a_workload_by_name():
    from pathlib import Path

    from workloads.catalogue import catalogue

    for path in Path(__file__).resolve().parents[2].joinpath("analysis").iterdir():
        if path.suffix in {".py", ".j2"} and path.stem != "learning":
            text = path.read_text(encoding="utf-8")
            for name in catalogue().workloads:
                assert not re.search(rf"[\"']{re.escape(name)}[\"']", text), (path.name, name)
