"""Loader processes: what a step needs, made ahead of it."""

import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar, cast

from torch.utils.data import DataLoader, Dataset

from refsys.errors import DataError, RefsysError

T = TypeVar("T")


def made_ahead(
    make: Callable[[int], T],
    steps: Iterable[int],
    workers: int,
    *,
    pinned: bool,
    errors: type[Exception] = RefsysError,
) -> Iterator[T]:
    """What `make` makes of each step, in order, for any number of processes.

    Args:
        make: A function of the step.
        steps: Which; there may be no end to them.
        workers: Processes; 0 makes each in this one, when it is asked for.
        pinned: Whether tensors are brought to page-locked memory.
        errors: What `make` raises on purpose, and is raised here.

    Raises:
        DataError: a process ended.
    """
    loader = DataLoader(
        _Made(make, errors),
        sampler=cast(Any, steps),
        batch_size=None,
        num_workers=workers,
        collate_fn=cast(Any, _as_it_is),
        worker_init_fn=_leave_signals_to_parent,
        pin_memory=pinned,
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
