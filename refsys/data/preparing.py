"""Preparing many structures in several processes."""

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from refsys.data.preparation import Prepared, Sources, prepare
from refsys.data.store import Store
from refsys.errors import DataError, RefsysError
from refsys.processes import die_with_parent

# What became of an entry: what was done, or why it could not be.
Outcome = Prepared | RefsysError


def prepare_all(
    store: Store, wanted: Sequence[Sources], workers: int
) -> Iterator[tuple[Sources, Outcome]]:
    """Prepares structures and yields each as it is done, in no particular order.

    A process that dies, of a file that takes all memory say, fails its own structure alone.

    Args:
        store: Where to.
        wanted: What to prepare.
        workers: How many at once, each in a process of its own; 1 prepares them in this process.
    """
    store.sweep()
    if workers == 1 or len(wanted) < 2:
        for sources in wanted:
            yield sources, _outcome(store, sources)
        return
    left = {id(sources): sources for sources in wanted}
    # The largest files first, so that no process ends alone with one of them.
    for sources, outcome in _in_processes(store, sorted(wanted, key=_size), workers):
        del left[id(sources)]
        yield sources, outcome
    # A process died and took the others' work with it: who is left is tried alone.
    for sources in left.values():
        found = [outcome for _, outcome in _in_processes(store, [sources], 1)]
        died = DataError(f"{sources.structure}: the process that prepared it was killed")
        yield sources, found[0] if found else died


def _in_processes(
    store: Store, wanted: Sequence[Sources], workers: int
) -> Iterator[tuple[Sources, Outcome]]:
    """As far as the processes live."""
    pool = ProcessPoolExecutor(
        min(workers, len(wanted)),
        mp_context=get_context("spawn"),
        initializer=_start,
        initargs=(os.getpid(),),
    )
    try:
        todo: dict[Future[Outcome], Sources] = {
            pool.submit(_outcome, store, sources): sources for sources in wanted
        }
        for future in as_completed(todo):
            yield todo[future], future.result()
    except BrokenProcessPool:
        return
    finally:
        # Interrupted, this does not wait for what runs: it dies with this process.
        pool.shutdown(wait=False, cancel_futures=True)


def _start(parent: int) -> None:
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _outcome(store: Store, sources: Sources) -> Outcome:
    try:
        return prepare(store, sources)
    except RefsysError as error:
        return error


def _size(sources: Sources) -> int:
    """Less for larger files."""
    files = [sources.structure, *sources.alignments.values()]
    return -sum(path.stat().st_size for path in files if path.is_file())
