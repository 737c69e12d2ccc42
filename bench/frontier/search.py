"""Search for the largest number of tiles that fits, in a bounded number of trials.

Whether a number fits is asked of an oracle: a trace, or a run in a process of its own. A guide
proposes the next number from what is known, for it may have reason to expect the edge somewhere;
the search takes the proposal as long as plain bisection of what would be left stays within the
bound on trials, and the midpoint otherwise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

# ``too long``: any larger number fails as well. ``failed``: for another reason, as by a crash.
Outcome = Literal["fits", "too long", "failed"]
Oracle = Callable[[int], Outcome]


class Guide(Protocol):
    """Proposal of the next number to try."""

    def __call__(self, low: int, high: int, outcomes: Mapping[int, Outcome]) -> int:
        """Return a number, between `low` and `high` if it is of use.

        Args:
            low: Largest number that fits so far; 0 if none does.
            high: Smallest number above it that does not fit, or one more than the largest allowed.
            outcomes: Outcome of each trial so far.
        """


@dataclass(frozen=True, slots=True)
class Edge:
    """Result of a search.

    Attributes:
        longest: Largest number that fits; 0 if none does.
        failing: Smallest number above it that was tried, all of which failed; None if the largest
            number allowed fits.
        outcomes: Outcome of each trial, in order.
        settled: Whether every number between the two was excluded; False if the trials ran out.
    """

    longest: int
    failing: int | None
    outcomes: Mapping[int, Outcome]
    settled: bool = True


def most_trials(most: int) -> int:
    """Return the bound on the trials of a search among 1 to `most`: 2·log2(most), 1 at least."""
    # Exact for any size: the largest n with 2^n <= most^2.
    return max((most * most).bit_length() - 1, 1)


def search(oracle: Oracle, most: int, guide: Guide) -> Edge:
    """Find the largest number in 1 to `most` that fits, with at most `most_trials(most)` trials.

    A number that failed for another reason than its size bounds the search like any other, but
    proves nothing of larger ones: one more above it is tried, and the search goes on there if
    it fits.

    Args:
        oracle: Outcome of a number; called once for each.
        most: Largest number allowed, at least 1.
        guide: Proposes numbers; the result depends on it only if the oracle is not monotone.
    """
    outcomes: dict[int, Outcome] = {}
    trials = most_trials(most)
    while True:
        low, high = _bracket(outcomes, most)
        if high - low > 1:
            if len(outcomes) == trials:
                break
            number = _next(low, high, guide(low, high, outcomes), trials - len(outcomes))
        elif (beyond := _beyond(high, outcomes, most)) and len(outcomes) < trials:
            number = beyond
        else:
            break
        outcomes[number] = oracle(number)
    return Edge(low, high if high in outcomes else None, outcomes, settled=high - low == 1)


def _bracket(outcomes: Mapping[int, Outcome], most: int) -> tuple[int, int]:
    """Return the largest number that fits, and the smallest above it that does not."""
    low = max((number for number, outcome in outcomes.items() if outcome == "fits"), default=0)
    failures = [number for number, outcome in outcomes.items() if outcome != "fits"]
    return low, min((number for number in failures if number > low), default=most + 1)


def _next(low: int, high: int, proposal: int, left: int) -> int:
    """Return the proposal if the larger part can be bisected afterwards, else the middle.

    Args:
        low: See `Guide`.
        high: See `Guide`.
        proposal: Of the guide.
        left: Trials that are left.
    """
    number = min(max(proposal, low + 1), high - 1)
    larger_part = max(number - low, high - number) - 1
    return number if larger_part.bit_length() <= left - 1 else (low + high) // 2


def _beyond(high: int, outcomes: Mapping[int, Outcome], most: int) -> int | None:
    """Return the number above a failure that says nothing of it; None if there is none to try."""
    beyond = high + 1
    if outcomes.get(high) != "failed" or beyond > most or beyond in outcomes:
        return None
    return beyond


@dataclass(frozen=True, slots=True)
class Gallop:
    """Guide that tries a number first, then others at twice the distance each.

    Attributes:
        start: First number, near which the edge is expected.
        known: Number that is tried before all others; 0 if none is.
    """

    start: int
    known: int = 0

    def __call__(self, low: int, high: int, outcomes: Mapping[int, Outcome]) -> int:
        """See `Guide`."""
        if self.known and self.known not in outcomes:
            return self.known
        if self.start not in outcomes:
            return self.start
        if high not in outcomes and low >= self.start:
            return self.start + max(2 * (low - self.start), 1)
        if low <= self.known and low < (lower := self.start - max(2 * (self.start - high), 1)):
            return lower
        return (low + high) // 2
