"""Made ahead: the same, in order, for any number of processes; errors in their turn."""

import os
import threading
from contextlib import closing
from functools import partial
from itertools import count

import pytest

from refsys.data.batches.loader import AHEAD, made_ahead, prefetched
from refsys.errors import DataError


def square(step):
    return step * step


def refuse(bad, step):
    if step == bad:
        raise DataError(f"step {step} is bad")
    return step


def die(step):
    if step == 2:
        os._exit(3)
    return step


def no_threads_beside(before):
    return {thread for thread in threading.enumerate() if thread.is_alive()} <= before


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_it_is_made_and_taken_in_order(workers):
    made = made_ahead(square, range(20), workers, take=lambda item: -item)
    assert list(made) == [-step * step for step in range(20)]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_what_cannot_be_made_says_so_in_its_turn(workers):
    made = made_ahead(partial(refuse, 4), count(), workers, take=lambda item: item)
    assert [next(made) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(DataError, match=r"^step 4 is bad$"):
        next(made)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_taken_says_so_in_its_turn(workers):
    made = made_ahead(square, range(9), workers, take=partial(refuse, 4))
    assert [next(made), next(made)] == [0, 1]
    with pytest.raises(DataError, match=r"^step 4 is bad$"):
        next(made)


def test_a_process_that_dies_is_named():
    made = made_ahead(die, range(5), 1, take=lambda item: item)
    with pytest.raises(DataError, match=r"^a loader process ended: .*exited"):
        list(made)


def source(given, closed):
    try:
        for step in count():
            given.append(step)
            yield step
    finally:
        closed.append(threading.current_thread())


def test_no_more_is_taken_than_there_is_room_for():
    given, closed = [], []
    before = set(threading.enumerate())
    with closing(prefetched(source(given, closed), square)) as ahead:
        for step in range(10):
            assert next(ahead) == step * step
            # One more waits for room.
            assert len(given) <= step + 2 + AHEAD
    assert closed
    assert closed[0] not in before
    assert no_threads_beside(before)


def test_it_is_ahead_while_a_step_is_at_work():
    given, closed = [], []
    enough = threading.Event()

    def take(step):
        if step == AHEAD:
            enough.set()
        return step

    with closing(prefetched(source(given, closed), take)) as ahead:
        assert next(ahead) == 0
        assert enough.wait(10)


def test_an_end_ends_the_thread():
    before = set(threading.enumerate())
    assert list(prefetched((step for step in range(3)), square)) == [0, 1, 4]
    assert no_threads_beside(before)
