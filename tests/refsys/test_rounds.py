"""Rounds and blocks that cost the same: run in full, or counted."""

import pytest
import torch

from refsys.ops.rounds import LEAST_BLOCKS, equal_blocks, equal_rounds, shortened, times


def test_all_rounds_are_run_by_default():
    assert [(number, times()) for number in equal_rounds(range(4))] == [(n, 1) for n in range(4)]


@pytest.mark.parametrize("count", range(6))
def test_rounds_left_out_are_counted(count):
    with shortened():
        rounds = [(number, times()) for number in equal_rounds(range(count))]
    assert len(rounds) == min(count, 2)
    assert sum(repeated for _, repeated in rounds) == count
    assert times() == 1


def test_nested_rounds_multiply():
    counted = 0
    with shortened():
        for _outer in equal_rounds("abc"):
            for _inner in equal_rounds("abcd"):
                counted += times()
    assert counted == 12


def test_loop_counts_no_longer_after_a_break():
    with shortened():
        for number in equal_rounds(range(4)):
            if number:
                break
        assert times() == 1


@pytest.mark.parametrize("count", range(8))
def test_all_blocks_are_run_by_default(count):
    assert list(equal_blocks(range(count))) == list(range(count))


@pytest.mark.parametrize("count", range(8))
def test_blocks_left_out_are_counted_where_gradients_are_off(count):
    with shortened(), torch.no_grad():
        blocks = [(number, times()) for number in equal_blocks(range(count))]
    numbers = [number for number, _ in blocks]
    assert numbers == (list(range(count)) if count < LEAST_BLOCKS else [0, 1, count - 1])
    assert sum(repeated for _, repeated in blocks) == count
    assert times() == 1


def test_all_blocks_are_run_where_gradients_are_on_and_nothing_accounts_for_them():
    with shortened():
        assert [(number, times()) for number in equal_blocks(range(9))] == [
            (number, 1) for number in range(9)
        ]
