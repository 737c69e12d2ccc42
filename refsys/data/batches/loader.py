"""Prefetch of training steps: loader processes build batches, a thread takes them ahead of time."""

import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from queue import Full, Queue
from threading import Event, Thread
from typing import Any, Generic, TypeVar, cast

from torch.utils.data import DataLoader, Dataset

from refsys.errors import DataError, RefsysError

T = TypeVar("T")
U = TypeVar("U")

# Items that are ready ahead of the consumer, so that a late one does not stall it at once.
AHEAD = 2
_POLL_S = 0.1


def prefetch_steps(
    make: Callable[[int], T],
    steps: Iterable[int],
    workers: int,
    *,
    take: Callable[[T], U],
    errors: type[Exception] = RefsysError,
) -> Generator[U]:
    """Yield ``take(make(step))`` in step order, using `workers` processes; close it at the end.

    Args:
        make: Function of the step, called in a worker process.
        steps: Training steps; may be infinite.
        workers: Processes; 0 calls `make` in this process, on demand.
        take: Applied to each item in this process, such as sending it to the device; with worker
            processes, a thread applies it ahead of time.
        errors: Exceptions of `make` that are raised here in place of its item.

    Raises:
        DataError: a worker process died.
    """
    items = _items(make, steps, workers, errors)
    if workers:
        yield from prefetch(items, take)
    for item in items:
        yield take(item)


def _items(
    make: Callable[[int], T], steps: Iterable[int], workers: int, errors: type[Exception]
) -> Generator[T]:
    loader = DataLoader(
        _StepDataset(make, errors),
        sampler=cast(Any, steps),
        batch_size=None,
        num_workers=workers,
        collate_fn=cast(Any, _identity),
        worker_init_fn=_ignore_signals,
    )
    iterator = iter(loader)
    try:
        while True:
            item = _next(iterator)
            if isinstance(item, _End):
                return
            if isinstance(item, errors):
                raise item
            yield item
    finally:
        # Ends the processes, which the traceback of an error would keep otherwise.
        del iterator


def _next(iterator: Iterator[T]) -> Any:
    """Return the next item, `_End` at the end.

    Raises:
        DataError: a worker process died.
    """
    try:
        return next(iterator, _End())
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        # The first line names the process and the cause; the others are torch's advice.
        reason = str(error).splitlines()[0]
    # Outside of the block, so that the error's frames are not kept.
    raise DataError(f"a loader process ended: {reason}")


def prefetch(source: Generator[T], take: Callable[[T], U]) -> Generator[U]:
    """Yield ``take(item)`` for the items of a source, in order, from a thread up to `AHEAD` ahead.

    Exceptions of the source or of `take` are raised here in order. Closing this closes the source.
    """
    ready: Queue[Callable[[], U]] = Queue(AHEAD)
    closed = Event()

    def put(item: Callable[[], U]) -> bool:
        """Enqueue an item; return False if the consumer closed before there was room."""
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
                if not put(partial(_returned, take(item))):
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
    """End of the source."""


def _returned(value: T) -> T:
    return value


def _raised(error: BaseException) -> Any:
    raise error


class _StepDataset(Dataset[Any], Generic[T]):
    """Dataset of `make` by step.

    An error is returned as a value: raised in a worker, it would arrive as a text with a traceback.
    """

    def __init__(self, make: Callable[[int], T], errors: type[Exception]) -> None:
        self._make, self._errors = make, errors

    def __getitem__(self, step: int) -> T | Exception:
        try:
            return self._make(step)
        except self._errors as error:
            return error


def _identity(item: Any) -> Any:
    return item


def _ignore_signals(worker: int) -> None:
    """Ignore SIGINT, which a terminal sends to the whole process group: the parent ends workers."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
