"""Search for the largest number that fits, with scripted oracles."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.frontier.search import Gallop, most_trials, search

SIZES = st.integers(min_value=1, max_value=3000)


def nowhere(low, high, outcomes):
    """Guide that proposes the worst: the number above the largest that fits."""
    return low + 1


def monotone(edge, asked=None):
    def oracle(number):
        if asked is not None:
            asked.append(number)
        return "fits" if number <= edge else "too long"

    return oracle


@given(most=SIZES, start=SIZES, edge=st.integers(0, 3000), known=st.sampled_from([0, 1]))
def test_edge_of_monotone_oracle_is_exact_within_the_bound(most, start, edge, known):
    asked = []
    start, edge = min(start, most), min(edge, most)
    found = search(monotone(edge, asked), most, Gallop(start, known))
    assert found.longest == edge
    assert found.failing == (edge + 1 if edge < most else None)
    assert found.settled
    assert len(asked) == len(set(asked)) == len(found.outcomes)
    assert len(asked) <= max(2 * math.log2(most), 1)


@given(most=SIZES, edge=st.integers(0, 3000))
def test_edge_is_exact_whatever_the_guide_proposes(most, edge):
    edge = min(edge, most)
    for guide in (nowhere, lambda low, high, _: high + 5, lambda *_: -1):
        found = search(monotone(edge), most, guide)
        assert (found.longest, found.settled) == (edge, True)
        assert len(found.outcomes) <= most_trials(most)


@pytest.mark.parametrize(("error", "trials"), [(0, 2), (1, 3), (-1, 3), (3, 5), (-5, 7)])
def test_good_prediction_takes_few_trials(error, trials):
    found = search(monotone(1000), 2048, Gallop(1000 + error))
    assert found.longest == 1000
    assert len(found.outcomes) <= trials


def test_known_number_is_tried_first():
    asked = []
    search(monotone(20, asked), 64, Gallop(20, known=1))
    assert asked == [1, 20, 21]


@pytest.mark.parametrize("start", [1, 17, 64])
def test_everything_or_nothing_fits(start):
    every = search(lambda _: "fits", 64, Gallop(start))
    assert (every.longest, every.failing, every.settled) == (64, None, True)
    none = search(lambda _: "too long", 64, Gallop(start))
    assert (none.longest, none.failing, none.settled) == (0, 1, True)


@given(
    most=st.integers(8, 3000),
    edge=st.integers(0, 3000),
    start=SIZES,
    offset=st.integers(-3, 3),
)
def test_single_failure_near_the_edge_does_not_end_the_search(most, edge, start, offset):
    """A hang or a crash: the result is within one of the edge, and fits."""
    edge, start = min(edge, most), min(start, most)

    def oracle(number):
        if number == edge + offset:
            return "failed"
        return monotone(edge)(number)

    found = search(oracle, most, Gallop(start))
    assert len(found.outcomes) <= most_trials(most)
    if found.settled and start == edge:
        assert edge - 1 <= found.longest <= edge
    assert found.longest == 0 or found.outcomes[found.longest] == "fits"


def test_number_above_a_crash_is_tried_and_the_search_goes_on_there():
    def oracle(number):
        return "failed" if number == 25 else monotone(40)(number)

    found = search(oracle, 64, Gallop(25))
    assert (found.longest, found.failing) == (40, 41)
    assert found.outcomes[25] == "failed"


def test_search_stops_where_every_longer_case_hangs():
    """Cases of more than 30 take too long: that costs one more trial."""
    asked = []

    def oracle(number):
        asked.append(number)
        return "fits" if number <= 30 else "failed"

    found = search(oracle, 64, Gallop(30))
    assert (found.longest, found.failing) == (30, 31)
    assert asked == [30, 31, 32]


@given(outcomes=st.lists(st.sampled_from(["fits", "too long", "failed"]), min_size=1, max_size=99))
def test_any_oracle_ends_within_the_bound_with_a_number_that_fits(outcomes):
    most = len(outcomes)
    found = search(lambda n: outcomes[n - 1], most, Gallop(min(5, most)))
    assert len(found.outcomes) <= most_trials(most)
    assert found.longest == 0 or outcomes[found.longest - 1] == "fits"
    assert found.failing is None or outcomes[found.failing - 1] != "fits"
    if found.settled:
        assert found.longest == most or found.failing == found.longest + 1
