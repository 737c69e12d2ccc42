"""Loops whose rounds all cost the same, shortened where only the cost of a step is counted."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from refsys.ops.scope import current, override

T = TypeVar("T")


def equal_rounds(rounds: Sequence[T]) -> Iterator[T]:
    """Yield a loop's rounds, of which all but the first start the same operators on equal shapes.

    Inside `shortened` two are yielded: the second stands for itself and for the omitted ones.
    """
    if not current().shorten_rounds:
        yield from rounds
        return
    yield from rounds[:1]
    with override(repetitions=times() * max(len(rounds) - 1, 0)):
        yield from rounds[1:2]


@contextmanager
def shortened() -> Iterator[None]:
    """Omit equal rounds inside the block, where only shapes are computed."""
    with override(shorten_rounds=True):
        yield


def times() -> int:
    """Return how many times the current round would run in the full loop."""
    return current().repetitions
