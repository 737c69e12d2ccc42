"""Chapter of examples that are divided among ranks: groups, numbers and findings."""

import csv
import io

import pytest
from support.measured import measured, table_of

from analysis.context_ranks import context_chapter
from analysis.ranks import rank_chapter


def divided(tokens, context_ranks, **more):
    """Return a record of a case whose example is divided among ranks."""
    variant = "reference" if context_ranks == 1 else f"reference, context_ranks={context_ranks}"
    record = measured(tokens, ranks=context_ranks, variant=variant, steps=1, **more)
    record["workload"]["config"]["context_ranks"] = context_ranks
    if context_ranks > 1:
        record["breakdown"]["collective_bytes"] = {"triangle_attention": 10, "losses": 30}
    return record


def figures(records):
    return {figure.name: figure for figure in context_chapter(table_of(records)).figures}


def test_strong_scaling_compares_equal_numbers_of_tokens():
    records = [divided(n, p) for n in (64, 96) for p in (1, 2, 4)]
    found = figures(records)
    assert set(found) == {"context_ranks-strong"}
    small, large = found["context_ranks-strong"].findings
    assert small.startswith("fold (reference), N\u00a0=\u00a064: step time at 4 ranks is ")
    assert "N\u00a0=\u00a096" in large
    assert large.endswith("at 4 ranks 75 % of the bytes are of losses.")
    assert found["context_ranks-strong"].draw().axes


def test_weak_scaling_compares_equal_parts_of_the_pair_representation():
    records = [divided(n, p) for n, p in ((64, 1), (91, 2), (128, 4), (64, 2), (128, 1))]
    (finding,) = figures(records)["context_ranks-weak"].findings
    assert "N²/P\u00a0=\u00a04096" in finding
    assert "at 4 ranks" in finding


def test_numbers_of_each_rank_equal_the_records():
    records = [divided(64, p) for p in (1, 2)]
    lines = list(csv.DictReader(io.StringIO(context_chapter(table_of(records)).csv())))
    times = {r["run_id"]: r["metrics"]["step_time_s"] for r in records}
    measured_times = [line for line in lines if line["metric"] == "step_time_s"]
    assert [int(line["context_ranks"]) for line in measured_times] == [1, 2, 2]
    for line in measured_times:
        metric = times[line["run_id"]]
        expected = (metric["ranks"] or [metric["value"]])[int(line["rank"])]
        assert float(line["value"]) == expected


@pytest.mark.parametrize(
    "records",
    [
        [divided(64, 1), divided(96, 1)],
        [divided(64, 2), divided(96, 2)],
        [divided(64, 1, workload="fold"), divided(64, 2, workload="text")],
    ],
)
def test_chapter_is_empty_without_rows_to_compare(records):
    assert context_chapter(table_of(records)).figures == ()


def test_divided_examples_are_not_weak_scaling_over_data_ranks():
    assert rank_chapter(table_of([divided(64, p) for p in (1, 2)])).figures == ()
