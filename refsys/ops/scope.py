"""Choices and watchers that are in force inside a ``with`` block, in every thread.

On an accelerator autograd runs the backward pass in threads of its own, which know nothing of the
context variables of the thread that asked for it; kernels are launched there as well.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Scope(Generic[T]):
    """One value. Blocks may be nested; those of several threads must not overlap."""

    def __init__(self, value: T) -> None:
        self._value = value

    def get(self) -> T:
        """The value in force."""
        return self._value

    @contextmanager
    def using(self, value: T) -> Iterator[None]:
        """Inside the block `value` is in force."""
        before, self._value = self._value, value
        try:
            yield
        finally:
            self._value = before


class Watchers(Generic[T]):
    """Who is told of each event. Blocks of several threads may overlap."""

    def __init__(self) -> None:
        self._all: tuple[Callable[[T], object], ...] = ()
        self._lock = Lock()

    def tell(self, event: T) -> None:
        """Calls every watcher."""
        for watcher in self._all:
            watcher(event)

    @contextmanager
    def added(self, watcher: Callable[[T], object]) -> Iterator[None]:
        """Inside the block `watcher` is called, too."""
        with self._lock:
            self._all = (*self._all, watcher)
        try:
            yield
        finally:
            with self._lock:
                left = list(self._all)
                left.remove(watcher)
                self._all = tuple(left)
