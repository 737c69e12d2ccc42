"""Rounds of a loop that all cost the same, for those who only count what a step costs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from refsys.ops.scope import Scope

T = TypeVar("T")

_shortened = Scope(value=False)
_times = Scope(1)


def equal_rounds(rounds: Sequence[T]) -> Iterator[T]:
    """A loop's rounds, of which all but the first start the same operators on the same shapes.

    Inside `shortened` it yields two: the second stands for itself and for those that are left out.
    """
    if not _shortened.get():
        yield from rounds
        return
    yield from rounds[:1]
    with _times.using(_times.get() * max(len(rounds) - 1, 0)):
        yield from rounds[1:2]


@contextmanager
def shortened() -> Iterator[None]:
    """Inside the block, where only shapes are computed, equal rounds are not repeated."""
    with _shortened.using(True):
        yield


def times() -> int:
    """How many times what is done now would be done."""
    return _times.get()
