"""Preparation of many structures in several processes."""

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

# Summary of a prepared entry, or the error that prevented it.
Outcome = Prepared | RefsysError
_Results = Generator[tuple[Sources, Outcome], None, list[Sources]]


def prepare_all(
    store: Store, requested: Sequence[Sources], workers: int
) -> Iterator[tuple[Sources, Outcome]]:
    """Prepare structures and yield each outcome when it is done, in no particular order.

    A failure affects its own structure alone, even if its process is killed by a fault in a library
    or for lack of memory.

    Args:
        store: Store to write to.
        requested: Sources of the entries to prepare.
        workers: Processes; 0 prepares in this process, and so does a single structure.
    """
    store.sweep()
    if workers == 0 or len(requested) < 2:
        for sources in requested:
            yield sources, _outcome(store, sources)
        return
    # Start with the largest files, so that no process works on one of them after all others end.
    pending = deque(sorted(requested, key=_descending_size))
    while pending:
        # A process that dies ends its whole pool: retry each interrupted structure alone.
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
    """Prepare in a pool of processes until all is done or a process dies.

    Args:
        store: Store to write to.
        pending: Sources of the entries to prepare; started ones are removed.
        workers: Number of processes.

    Returns:
        Sources that were in progress when a process died; empty if none did.
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
        # A broken pool accepts no more work.
        return list(running.values())
    finally:
        # Do not wait for running work after an interrupt: the workers die with this process.
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
        # The outcome could not be pickled.
        return unexpected_error(sources.structure, error)


def _descending_size(sources: Sources) -> int:
    """Return a sort key that is less for larger files."""
    return -sum(_bytes_of([sources.structure, *sources.alignments.values()]))


def _bytes_of(files: Iterable[os.PathLike[str]]) -> Iterator[int]:
    for path in files:
        try:
            yield os.stat(path).st_size
        except (OSError, ValueError):
            # The preparation reports why the file cannot be read.
            yield 0
