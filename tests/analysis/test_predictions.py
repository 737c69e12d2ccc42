"""Predictions beside published numbers: pairs, tables, page, and their independence."""

import math
import shutil
import subprocess
import sys

import pytest
from support.documents import ROOT

from analysis.errors import AnalysisError
from analysis.predictions import (
    BEGIN,
    END,
    MEMORY,
    TIME,
    draw,
    inserted,
    pairs,
    recorded_pairs,
    table,
)
from analysis.published import FOLDER, Point, PublishedSeries, read_published
from analysis.published_matches import PEAK, STEP, matches
from bench.cli import main
from bench.records.reading import read_records

RECORDS = ROOT / "results" / "recorded" / "predictions.jsonl"
PAGE = ROOT / "docs" / "predictions.md"
PUBLISHED = read_published(FOLDER)
H200 = "NVIDIA H200 (simulated)"


@pytest.fixture(scope="module")
def found():
    return recorded_pairs(RECORDS)


def record(tokens, backend="triton", *, peak=10e9, seconds=2.0, device=H200, **axes):
    config = {"stage": "initial", "cycles": 2, "checkpointing": True, "backend": backend}
    config |= {"tokens": tokens, **axes}
    return {
        "run_id": f"{tokens} {backend} {device}",
        "started_at": "2026-11-29T00:00:00+00:00",
        "workload": {"name": "alphafold3", "config": config},
        "devices": [{"name": device, "memory_bytes": 141_000_000_000}],
        "metrics": {PEAK: {"value": peak}, STEP: {"value": seconds}},
        "notes": {},
    }


def series(figure, system, *points):
    matched = [s for s in PUBLISHED if (s.figure, s.system) == (figure, system)]
    (one,) = matched
    values = {name: getattr(one, name) for name in PublishedSeries.__dataclass_fields__}
    return PublishedSeries(**values | {"points": points})


MEMORY_FIGURE = "peak memory allocated, H200"
TIME_FIGURE = "time of a training iteration, H200"


def test_every_match_is_a_published_series():
    known = {(s.name, s.figure, s.system) for s in PUBLISHED}
    for match in matches():
        assert (match.work, match.figure, match.system) in known


def test_point_is_paired_with_the_record_of_its_tokens_backend_and_device():
    records = [
        record(384, seconds=3.0, peak=30e9),
        record(512, seconds=5.0),
        record(384, "reference", seconds=7.0),
        record(384, device="NVIDIA A100-SXM4-80GB (simulated)", seconds=11.0),
        record(384, stage="fine_tuning_1", seconds=13.0),
        record(384, cycles=3, seconds=17.0),
    ]
    published = [
        series(MEMORY_FIGURE, "MegaFold", Point(384, 60.0, "", "")),
        series(TIME_FIGURE, "MegaFold", Point(384, 6.0, "about", ""), Point(512, 5.0, "", "")),
    ]
    time, longer, memory = pairs(records, published)
    assert (memory.quantity, memory.published, memory.predicted) == (MEMORY, 60e9, 30e9)
    assert (time.quantity, time.published, time.predicted) == (TIME, 6.0, 3.0)
    assert (memory.ratio, time.ratio, longer.ratio) == (0.5, 0.5, 1.0)
    assert time.about
    assert not longer.about


def test_records_that_leave_an_idea_out_or_save_all_activations_are_not_paired():
    published = [series("peak memory allocated, H200", "MegaFold", Point(384, 20.0, "", ""))]
    kept = record(384, peak=90e9, checkpointing=False)
    partial = record(384, peak=70e9) | {"notes": {"idea_left_out": "fused attention"}}
    later = [each | {"started_at": "2027-01-01T00:00:00+00:00"} for each in (kept, partial)]
    (pair,) = pairs([record(384), *later], published)
    assert pair.predicted == 10e9


def test_newest_record_counts():
    old, new = record(384, seconds=3.0), record(384, seconds=4.0)
    new["started_at"] = "2026-11-30T00:00:00+00:00"
    published = [series(TIME_FIGURE, "MegaFold", Point(384, 6.0, "", ""))]
    for records in ([old, new], [new, old]):
        assert pairs(records, published)[0].predicted == 4.0


def test_case_out_of_memory_agrees_only_with_a_peak_above_the_memory():
    published = [
        series(name, "PyTorch", Point(640, None, "", "oom"))
        for name in (MEMORY_FIGURE, TIME_FIGURE)
    ]
    for peak, agrees in ((150e9, True), (140e9, False)):
        # Both figures state one fact.
        (pair,) = pairs([record(640, "reference", peak=peak)], published)
        assert (pair.published, pair.ratio, pair.fits) == (None, None, False)
        assert pair.quantity == MEMORY
        assert pair.agrees == agrees
        assert "out of 141" in table([pair])


def test_missing_record_is_reported():
    published = [series(TIME_FIGURE, "MegaFold", Point(384, 6.0, "", ""))]
    with pytest.raises(AnalysisError, match=r"no record of alphafold3 on NVIDIA H200 .*tokens=384"):
        pairs([record(512)], published)


def test_table_has_the_error_of_each_pair():
    published = [
        series(MEMORY_FIGURE, "MegaFold", Point(384, 60.0, "", "")),
        series(TIME_FIGURE, "MegaFold", Point(384, 1.6, "about", "")),
    ]
    text = table(pairs([record(384, seconds=2.0, peak=30e9)], published))
    assert "| MegaFold | H200 | 384 tokens | 60 | 30 | −50% | ≈ 1.6 | 2 | +25% |" in text
    assert "| MegaFold | 0.50 (0.50 to 0.50) | 1.25 (1.25 to 1.25) |" in text


def test_recorded_predictions_cover_all_numbers_that_are_to_be_matched(found):
    cases = {(p.name, p.device, p.case, p.quantity) for p in found}
    for tokens in (128, 256, 384, 512, 640, 768):
        assert ("MegaFold", "H200", f"{tokens} tokens", TIME) in cases
    for tokens in (384, 512, 640, 768):
        assert ("MegaFold", "H200", f"{tokens} tokens", MEMORY) in cases
    for quantity in (MEMORY, TIME):
        fused = [p for p in found if p.name == "Protenix training, as fused"]
        assert sum(p.quantity == quantity for p in fused) == 4
        inference = [p for p in found if p.name == "Protenix inference"]
        assert sum(p.quantity == quantity for p in inference) == 5
    assert sum(p.name == "AlphaFold 3 inference" and p.quantity == TIME for p in found) == 10
    assert sum(p.name == "Fold-CP inference" for p in found) == 1
    assert all(p.predicted > 0 and math.isfinite(p.predicted) for p in found)


def test_page_is_what_the_records_say(found):
    page = PAGE.read_text(encoding="utf-8")
    assert inserted(page, table(found)) == page


def test_page_without_markers_is_refused():
    with pytest.raises(AnalysisError, match="has no lines"):
        inserted(f"{END} {BEGIN}", "text")


def test_figure_has_a_point_for_each_number(found):
    figure = draw(found)
    plotted = sum(len(line.get_xdata()) for axis in figure.axes for line in axis.lines)
    # Three lines of two points each, beside the points of the numbers.
    assert plotted == sum(p.published is not None for p in found) + 3 * 3 * 2


def test_recorded_predictions_are_of_committed_source():
    for one in read_records([RECORDS]):
        assert one.git.sha
        assert not one.git.dirty


def test_predictions_read_no_published_number(tmp_path, capsys):
    """The same bytes come from a copy of the source without the published numbers."""
    copy = tmp_path / "copy"
    for name in ("refsys", "workloads", "bench", "analysis"):
        ignore = shutil.ignore_patterns("__pycache__", "published_numbers", "*.md")
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    assert not any(copy.rglob("megafold.json"))
    words = "simulate transformer --preset bloom-tiny --tokens 64 --device h200 --json --no-cache"
    command = [*words.split(), "--jobs", "1"]
    without = subprocess.run(
        [sys.executable, "-m", "bench", *command], cwd=copy, check=True, capture_output=True
    ).stdout.decode()
    assert main(command) == 0
    assert capsys.readouterr().out == without
    assert "predicted_step_time_s" in without
