"""Rounds that cost the same: run in full, or counted."""

import pytest

from refsys.ops.rounds import equal_rounds, shortened, times


def test_all_rounds_are_run():
    assert [(number, times()) for number in equal_rounds(range(4))] == [(n, 1) for n in range(4)]


@pytest.mark.parametrize("count", range(6))
def test_those_that_are_left_out_are_counted(count):
    with shortened():
        rounds = [(number, times()) for number in equal_rounds(range(count))]
    assert len(rounds) == min(count, 2)
    assert sum(repeated for _, repeated in rounds) == count
    assert times() == 1


def test_rounds_of_rounds_multiply():
    counted = 0
    with shortened():
        for _outer in equal_rounds("abc"):
            for _inner in equal_rounds("abcd"):
                counted += times()
    assert counted == 12


def test_a_loop_that_is_left_counts_no_longer():
    with shortened():
        for number in equal_rounds(range(4)):
            if number:
                break
        assert times() == 1
