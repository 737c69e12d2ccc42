"""Preparing many structures in several processes."""

import os
import signal
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool

from refsys.data.prepare.entries import Prepared, Sources, prepare
from refsys.data.store.store import Store
from refsys.errors import DataError, RefsysError, unexpected_error
from refsys.processes import ProcessPool, die_with_parent

# An entry as it was prepared, or why it could not be.
Outcome = Prepared | RefsysError
_Results = Generator[tuple[Sources, Outcome], None, list[Sources]]


def prepare_all(
    store: Store, wanted: Sequence[Sources], workers: int
) -> Iterator[tuple[Sources, Outcome]]:
    """Prepare structures and yield each as it is done, in no particular order.

    Whatever happens on one of them, it fails alone: also if its process is killed, as by a fault in
    a library or for want of memory.

    Args:
        store: Where to.
        wanted: What to prepare.
        workers: Processes; 0 prepares in this one, and so does a structure that is the only one.
    """
    store.sweep()
    if workers == 0 or len(wanted) < 2:
        for sources in wanted:
            yield sources, _outcome(store, sources)
        return
    # The largest files first, so that no process ends alone with one of them.
    pending = deque(sorted(wanted, key=_size))
    while pending:
        # A process that died took the others of its pool with it: each of theirs is tried alone.
        for sources in (yield from _in_processes(store, pending, workers)):
            if (yield from _in_processes(store, deque([sources]), 1)):
                yield (
                    sources,
                    DataError(
                        f"{sources.structure}: the process that prepared it was killed; "
                        "is there too little memory?"
                    ),
                )


def _in_processes(store: Store, pending: deque[Sources], workers: int) -> _Results:
    """Prepare in a pool of processes, as long as all of them live.

    Args:
        store: Where to.
        pending: What to prepare; what is begun is taken out.
        workers: Processes.

    Returns:
        What was being prepared when a process died.
    """
    pool = ProcessPool(min(workers, len(pending)), _start, (os.getpid(),))
    running: dict[Future[Outcome], Sources] = {}
    try:
        while pending or running:
            while pending and len(running) < workers:
                future = pool.submit(_outcome, store, pending[0])
                running[future] = pending.popleft()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                if not isinstance(future.exception(), BrokenProcessPool):
                    sources = running.pop(future)
                    yield sources, _result(sources, future)
            if any(future.done() for future in running):
                return list(running.values())
    except BrokenProcessPool:
        # The pool takes nothing more.
        return list(running.values())
    finally:
        # Interrupted, this does not wait for what runs: it dies with this process.
        pool.shutdown(wait=False, cancel_futures=True)
    return []


def _start(parent: int) -> None:
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _outcome(store: Store, sources: Sources) -> Outcome:
    try:
        return prepare(store, sources)
    except RefsysError as error:
        return error
    except Exception as error:
        return unexpected_error(sources.structure, error)


def _result(sources: Sources, future: Future[Outcome]) -> Outcome:
    try:
        return future.result()
    except Exception as error:
        # The outcome could not be sent.
        return unexpected_error(sources.structure, error)


def _size(sources: Sources) -> int:
    """Return a sort key that is less for larger files."""
    return -sum(_bytes_of([sources.structure, *sources.alignments.values()]))


def _bytes_of(files: Iterable[os.PathLike[str]]) -> Iterator[int]:
    for path in files:
        try:
            yield os.stat(path).st_size
        except (OSError, ValueError):
            # Preparing it says why it cannot be read.
            yield 0
