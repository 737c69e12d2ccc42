"""Loader processes: what a step needs, made ahead of it, and taken from them ahead of it too."""

import signal
from collections.abc import Callable, Generator, Iterable
from functools import partial
from queue import Full, Queue
from threading import Event, Thread
from typing import Any, Generic, TypeVar, cast

from torch.utils.data import DataLoader, Dataset

from refsys.errors import DataError, RefsysError

T = TypeVar("T")
U = TypeVar("U")

# So many are ready while one is at work: one that comes late does not show at once.
AHEAD = 2
_POLL_S = 0.1


def made_ahead(
    make: Callable[[int], T],
    steps: Iterable[int],
    workers: int,
    *,
    take: Callable[[T], U],
    errors: type[Exception] = RefsysError,
) -> Generator[U]:
    """What `make` makes of each step, in order, for any number of processes; close it at the end.

    Args:
        make: A function of the step.
        steps: Which; there may be no end to them.
        workers: Processes; 0 makes each in this one, when it is asked for.
        take: What to do with each here, such as to send it to the device; with processes, a thread
            does it ahead of time.
        errors: What `make` raises on purpose, and is raised here.

    Raises:
        DataError: a process ended.
    """
    made = _made(make, steps, workers, errors)
    if workers:
        yield from prefetched(made, take)
    for item in made:
        yield take(item)


def _made(
    make: Callable[[int], T], steps: Iterable[int], workers: int, errors: type[Exception]
) -> Generator[T]:
    loader = DataLoader(
        _Made(make, errors),
        sampler=cast(Any, steps),
        batch_size=None,
        num_workers=workers,
        collate_fn=cast(Any, _as_it_is),
        worker_init_fn=_leave_signals_to_parent,
    )
    iterator = iter(loader)
    while True:
        try:
            made = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            # The first line says which and why; what follows is torch's advice.
            raise DataError(f"a loader process ended: {str(error).splitlines()[0]}") from None
        if isinstance(made, errors):
            raise made
        yield made


def prefetched(source: Generator[T], take: Callable[[T], U]) -> Generator[U]:
    """What `take` makes of each item of a source, in order, in a thread up to `AHEAD` ahead.

    What the source or `take` raises is raised here, in its turn. Closing this closes the source.
    """
    ready: Queue[Callable[[], U]] = Queue(AHEAD)
    closed = Event()

    def put(item: Callable[[], U]) -> bool:
        """Whether there was room before nobody wanted more."""
        while not closed.is_set():
            try:
                ready.put(item, timeout=_POLL_S)
            except Full:
                continue
            return True
        return False

    def fill() -> None:
        try:
            for item in source:
                taken = take(item)
                if not put(partial(_returned, taken)):
                    break
            else:
                put(partial(_raised, _End()))
        except BaseException as error:
            put(partial(_raised, error))
        finally:
            source.close()

    thread = Thread(target=fill, daemon=True)
    thread.start()
    try:
        while True:
            yield ready.get()()
    except _End:
        return
    finally:
        closed.set()
        thread.join()


class _End(Exception):
    """There is no more."""


def _returned(value: T) -> T:
    return value


def _raised(error: BaseException) -> Any:
    raise error


class _Made(Dataset[Any], Generic[T]):
    """An error is handed over as a value: raised in a process, it would arrive as a traceback."""

    def __init__(self, make: Callable[[int], T], errors: type[Exception]) -> None:
        self._make, self._errors = make, errors

    def __getitem__(self, step: int) -> T | Exception:
        try:
            return self._make(step)
        except self._errors as error:
            return error


def _as_it_is(made: Any) -> Any:
    return made


def _leave_signals_to_parent(worker: int) -> None:
    """A terminal interrupts the whole group; the parent decides when its workers end."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
