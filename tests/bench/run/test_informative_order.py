"""Order of a run with a budget: a case of each pair first, ends of axes before middles."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.run.informative_order import InformativeOrder
from bench.run.points import Point, point_of
from bench.run.sweep import read_sweep, shipped_sweeps
from workloads.catalogue import catalogue

SIZES = (128, 256, 384, 512, 640, 768)


def points(*backends, sizes=SIZES, workload="fold", kind=("fold full", "bfloat16", ""), ranks=(1,)):
    return [
        Point(workload, backend, kind, float(size), count)
        for count in ranks
        for size in sizes
        for backend in backends
    ]


def run(found, status=lambda point: "ok", seconds=lambda point: 1.0, left_s=math.inf, known=True):
    """Run all cases; returns their points in order."""
    order, done = InformativeOrder(found), []
    while (index := order.next(lambda k: seconds(found[k]), lambda k: known, left_s)) is not None:
        order.ended(index, status(found[index]))
        done.append(found[index])
    return done


POINTS = st.lists(
    st.builds(
        Point,
        st.sampled_from("ab"),
        st.sampled_from(("x", "y", "z")),
        st.tuples(st.sampled_from("st"), st.sampled_from("uv"), st.just("")),
        st.sampled_from((0.0, 64.0, 96.0, 128.0, 1024.0)),
        st.sampled_from((1, 2, 8)),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=30,
    unique=True,
)
STATUSES = st.sampled_from(("ok", "oom", "timeout", "crash", "unsupported"))


@given(POINTS, st.data())
def test_every_pair_has_a_case_before_any_has_two(found, data):
    outcomes = {point: data.draw(STATUSES) for point in found}
    done = run(found, outcomes.__getitem__)
    assert sorted(done) == sorted(found)
    pairs = {point.pair for point in found}
    assert {point.pair for point in done[: len(pairs)]} == pairs


@given(POINTS)
def test_order_is_a_function_of_the_cases(found):
    assert run(found) == run(found)


def test_ends_of_the_size_axis_come_before_the_middles():
    done = run(points("triton"))
    assert [point.size for point in done] == [768, 128, 256, 512, 384, 640]


def test_backends_are_compared_at_the_same_size():
    done = run(points("reference", "compiled", "triton"))
    for first in range(0, len(done), 3):
        assert len({point.size for point in done[first : first + 3]}) == 1


def test_case_gets_its_counterpart_on_the_other_backend_next():
    done = run(points("reference") + points("triton", sizes=(256, 512)))
    first = [(point.size, point.backend) for point in done[:3]]
    assert first == [(768, "reference"), (256, "triton"), (256, "reference")]


def test_all_kinds_run_before_a_second_size_of_a_kind():
    kinds = [("layer norm", "", ""), ("attention", "", ""), ("transition", "", "")]
    found = [point for kind in kinds for point in points("a", "b", kind=kind)]
    first = run(found)[:6]
    assert set(Counter(point.kind for point in first).values()) == {2}
    assert {point.size for point in first} == {768}


def test_corners_of_sizes_and_ranks_come_first():
    done = run(points("a", ranks=(1, 2, 4, 8)))
    corners = {(point.size, point.ranks) for point in done[:4]}
    assert corners == {(768, 1), (128, 8), (128, 1), (768, 8)}


def test_replicates_come_last():
    found = points("a") + [point._replace(replicate=1) for point in points("a")]
    assert [point.replicate for point in run(found)] == [0] * 6 + [1] * 6


def test_sizes_above_one_that_ran_out_of_memory_come_last():
    found = points("a", sizes=[64, 128, 256, 512, 1024, 2048, 4096])

    def sizes(limit):
        def status(point):
            return "oom" if point.size > limit else "ok"

        return [point.size for point in run(found, status, lambda point: 9999 - point.size)]

    assert sizes(100) == [4096, 64, 512, 256, 128, 2048, 1024]
    assert sizes(9999)[:5] == [4096, 64, 512, 2048, 1024]


def test_pair_without_a_measurement_goes_on_before_others():
    """Its largest size ran out of memory: a smaller one says more than another's second size."""
    found = points("a", workload="big") + points("a", workload="small")
    done = run(found, lambda p: "oom" if p.workload == "big" and p.size > 500 else "ok")
    assert [(p.workload, p.size) for p in done[:3]] == [("big", 768), ("small", 768), ("big", 128)]


def test_first_size_is_the_largest_in_its_share_of_the_time():
    found = points("a", workload="fold") + points("a", workload="text")
    done = run(found, seconds=lambda point: point.size, left_s=1100.0)
    assert [point.size for point in done[:2]] == [512, 768], "550 s each, then all of it"
    done = run(found, seconds=lambda point: point.size, left_s=200.0)
    assert [point.size for point in done] == [128, 128], "none fits its share: the smallest"


def test_first_size_is_the_smallest_when_no_duration_is_known():
    found = points("a", "b", workload="fold") + points("a", workload="text")
    done = run(found, seconds=lambda point: point.size, known=False)
    assert [point.size for point in done[:3]] == [128, 128, 128]
    assert {point.size for point in done[3:6]} == {768}


def test_shorter_case_comes_first_among_equally_informative_ones():
    found = points("a", workload="fold") + points("a", workload="text")
    done = run(found, seconds=lambda p: p.size * (1 + (p.workload == "fold")), known=False)
    assert [point.workload for point in done[:4]] == ["text", "fold"] * 2


def test_case_longer_than_the_time_left_is_not_chosen():
    order = InformativeOrder(points("a"))
    assert order.next(lambda index: 10.0, lambda index: True, 9.0) is None
    assert order.next(lambda index: 10.0, lambda index: True, 10.0) is not None
    order.leave_out(0)
    assert order.left == [1, 2, 3, 4, 5]


def test_earlier_cases_count():
    found = points("a", "b")
    order = InformativeOrder(found)
    order.ended(found.index(points("a", sizes=[768])[0]), "ok")
    index = order.next(lambda index: 1.0, lambda index: True, 60.0)
    assert found[index] == points("b", sizes=[768])[0]


@pytest.mark.parametrize("name", ["standard", "kernels", "demo", "pipeline"])
def test_shipped_sweeps_begin_with_each_pair(name):
    found = catalogue()
    sweep = read_sweep(shipped_sweeps()[name], found)
    where = [point_of(found[c.workload], c.axes, c.ranks, c.replicate) for c in sweep.cases]
    pairs = {point.pair for point in where}
    first = run(where)[: len(pairs)]
    assert {point.pair for point in first} == pairs
    assert {point.ranks for point in first} == {1}
    for point in first:
        same = [p.size for p in where if (p.workload, p.kind) == (point.workload, point.kind)]
        assert point.size == max(same)
