"""Order of cases by information, the most informative first.

Greedy, case by case, given what has ended so far. Of the cases that can still end in time, the next
one is the first by these criteria, in turn:

1. it is not known to be too large: no case of its kind and backend of that size or a smaller one
   ran out of memory or time;
2. its pair of workload and backend has no case yet; then, has none that was measured because they
   were too large;
3. its group (all but the backend) has begun, so that backends are compared at the same size;
4. its group lies farthest from every group that has begun (a maximin design): other workloads, then
   other series and variants count more than sizes and ranks, which are compared by their logarithms
   over their range in the sweep, so that the ends of the axes come before the middles;
5. fewer ranks, lower replicates;
6. of a kind that has not begun the smallest size; but if it is known how long cases of the kind
   take, the largest size that ends within its share of the time left, which is that time over the
   number of pairs without a case, else the smallest;
7. the shorter duration; and last the sweep's own order, which its seed decides.
"""

import math
from collections.abc import Callable, Sequence

from bench.run.points import Point

# Statuses of a case that was too large for the machine.
TOO_LARGE = frozenset({"oom", "timeout"})
_OTHER_WORKLOAD, _OTHER_KIND = 100.0, 10.0


class InformativeOrder:
    """Choice of the next case of a sweep."""

    def __init__(self, points: Sequence[Point]) -> None:
        """Begin with no case done.

        Args:
            points: Positions of all cases, in the sweep's order.
        """
        self._points = points
        self._left = set(range(len(points)))
        self._begun: set[Point] = set()
        self._begun_kinds: set[tuple[object, ...]] = set()
        # Distance of each case's group from those that have begun.
        self._distance = [math.inf] * len(points)
        # True for each pair of which a case ended that is not too large.
        self._pairs: dict[tuple[str, str], bool] = {}
        self._too_large: dict[tuple[object, ...], float] = {}
        self._size_span = _spans(points, lambda p: p.size)
        self._rank_span = _spans(points, lambda p: p.ranks)

    @property
    def left(self) -> list[int]:
        """Numbers of the cases that have not ended, in the sweep's order."""
        return sorted(self._left)

    def leave_out(self, index: int) -> None:
        """Remove a case that cannot run; it counts as no observation."""
        self._left.discard(index)

    def ended(self, index: int, status: str) -> None:
        """Note the end of a case, of this run or an earlier one."""
        self._left.discard(index)
        point = self._points[index]
        too_large = status in TOO_LARGE
        self._pairs[point.pair] = self._pairs.get(point.pair, False) or not too_large
        if too_large:
            kind = (*point.pair, point.kind)
            self._too_large[kind] = min(self._too_large.get(kind, math.inf), point.size)
        if point.group in self._begun:
            return
        self._begun.add(point.group)
        self._begun_kinds.add((point.workload, point.kind))
        for other in self._left:
            distance = self._between(self._points[other].group, point.group)
            self._distance[other] = min(self._distance[other], distance)

    def next(
        self, seconds: Callable[[int], float], has_estimate: Callable[[int], bool], left_s: float
    ) -> int | None:
        """Return the number of the case to run next; None if none can end in time.

        Args:
            seconds: Estimated duration of a case by its number.
            has_estimate: Returns True if the estimate comes from cases of the same kind.
            left_s: Time left.
        """
        durations = {index: seconds(index) for index in self._left}
        possible = [index for index, duration in durations.items() if duration <= left_s]
        uncovered = {self._points[index].pair for index in possible} - self._pairs.keys()
        share_s = left_s / max(1, len(uncovered))

        def criteria(index: int) -> tuple[float, ...]:
            point = self._points[index]
            size = 0.0
            if (point.workload, point.kind) not in self._begun_kinds:
                fits = has_estimate(index) and durations[index] <= share_s
                # Any size that fits comes before any that does not.
                size = -point.size - 1.0 if fits else point.size
            return (
                point.size >= self._too_large.get((*point.pair, point.kind), math.inf),
                self._pairs.get(point.pair, -1),
                point.group not in self._begun,
                -self._distance[index],
                point.ranks,
                point.replicate,
                size,
                durations[index],
                index,
            )

        return min(possible, key=criteria, default=None)

    def _between(self, a: Point, b: Point) -> float:
        """Return the distance of two groups."""
        if a.workload != b.workload:
            return _OTHER_WORKLOAD
        if different := sum(x != y for x, y in zip(a.kind, b.kind, strict=True)):
            return _OTHER_KIND * different
        axis = (a.workload, a.kind)
        return _apart(a.size, b.size, self._size_span[axis]) + _apart(
            a.ranks, b.ranks, self._rank_span[axis]
        )


def _spans(
    points: Sequence[Point], value: Callable[[Point], float]
) -> dict[tuple[str, tuple[str, str, str]], float]:
    """Return the ratio of the largest to the smallest value in each kind."""
    values: dict[tuple[str, tuple[str, str, str]], list[float]] = {}
    for point in points:
        values.setdefault((point.workload, point.kind), []).append(max(value(point), 1.0))
    return {kind: max(kind_values) / min(kind_values) for kind, kind_values in values.items()}


def _apart(a: float, b: float, span: float) -> float:
    """Return the distance on an axis, in shares of its range."""
    return abs(math.log(max(a, 1.0) / max(b, 1.0))) / math.log(span) if span > 1 else 0.0
