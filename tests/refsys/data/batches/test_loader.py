"""Prefetch: the same items in order for any number of processes, and errors in order."""

import os
import threading
from contextlib import closing
from functools import partial
from itertools import count
from multiprocessing import active_children

import pytest

from refsys.data.batches.loader import AHEAD, prefetch, prefetch_steps
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
def test_prefetch_steps_yields_in_order_for_any_worker_count(workers):
    items = prefetch_steps(square, range(20), workers, take=lambda item: -item)
    assert list(items) == [-step * step for step in range(20)]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_prefetch_steps_raises_error_of_make_in_order(workers):
    items = prefetch_steps(partial(refuse, 4), count(), workers, take=lambda item: item)
    assert [next(items) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(DataError, match=r"^step 4 is bad$"):
        next(items)


@pytest.mark.parametrize("workers", [0, 2])
def test_prefetch_steps_raises_error_of_take_in_order(workers):
    items = prefetch_steps(square, range(9), workers, take=partial(refuse, 4))
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(DataError, match=r"^step 4 is bad$"):
        next(items)


def test_prefetch_steps_reports_a_dead_worker():
    items = prefetch_steps(die, range(5), 1, take=lambda item: item)
    with pytest.raises(DataError, match=r"^a loader process ended: .*exited"):
        list(items)


def source(produced, closed):
    try:
        for step in count():
            produced.append(step)
            yield step
    finally:
        closed.append(threading.current_thread())


def test_prefetch_is_bounded_and_closes_its_source():
    produced, closed = [], []
    before = set(threading.enumerate())
    with closing(prefetch(source(produced, closed), square)) as ahead:
        for step in range(10):
            assert next(ahead) == step * step
            # One more item waits for room in the queue.
            assert len(produced) <= step + 2 + AHEAD
    assert closed
    assert closed[0] not in before
    assert no_threads_beside(before)


def test_prefetch_runs_ahead_of_the_consumer():
    produced, closed = [], []
    enough = threading.Event()

    def take(step):
        if step == AHEAD:
            enough.set()
        return step

    with closing(prefetch(source(produced, closed), take)) as ahead:
        assert next(ahead) == 0
        assert enough.wait(10)


def test_prefetch_thread_ends_with_its_source():
    before = set(threading.enumerate())
    assert list(prefetch((step for step in range(3)), square)) == [0, 1, 4]
    assert no_threads_beside(before)


@pytest.mark.parametrize(("make", "steps"), [(partial(refuse, 2), 2), (die, 2)])
def test_processes_end_with_an_error_whose_traceback_is_kept(make, steps):
    before = set(active_children())
    items = prefetch_steps(make, count(), 1, take=lambda item: item)
    for _ in range(steps):
        next(items)
    with pytest.raises(DataError) as kept:
        next(items)
    assert kept.value.__traceback__ is not None
    assert set(active_children()) <= before
