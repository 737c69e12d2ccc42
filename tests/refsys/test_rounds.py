"""Loops whose rounds cost the same: run in full, or once with a repeat count."""

import pytest

from refsys.ops.rounds import equal_rounds, shortened, times


def test_equal_rounds_yields_all_rounds_by_default():
    assert [(number, times()) for number in equal_rounds(range(4))] == [(n, 1) for n in range(4)]


@pytest.mark.parametrize("count", range(6))
def test_shortened_rounds_count_the_omitted_ones(count):
    with shortened():
        rounds = [(number, times()) for number in equal_rounds(range(count))]
    assert len(rounds) == min(count, 2)
    assert sum(repeated for _, repeated in rounds) == count
    assert times() == 1


def test_nested_rounds_multiply_their_counts():
    counted = 0
    with shortened():
        for _outer in equal_rounds("abc"):
            for _inner in equal_rounds("abcd"):
                counted += times()
    assert counted == 12


def test_leaving_a_loop_restores_the_count():
    with shortened():
        for number in equal_rounds(range(4)):
            if number:
                break
        assert times() == 1
