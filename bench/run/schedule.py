"""Order of the cases of a run, with or without a budget of time, and estimates of what is left."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from bench.run.durations import Durations
from bench.run.informative_order import InformativeOrder
from bench.run.points import point_of
from bench.run.sweep import Case
from workloads.workload import Catalogue


class Budget:
    """Time that a run may take, from now on."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._end = clock() + seconds

    @property
    def left_s(self) -> float:
        """Time left; negative once it has ended. Unit: s."""
        return self._end - self._clock()


class Schedule:
    """Cases that have not ended, of which `next` is to run.

    Without a budget they run in the sweep's order; with one the most informative first
    (`bench.run.informative_order`), and none is begun that probably cannot end within it.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        catalogue: Catalogue,
        durations: Durations,
        budget: Budget | None = None,
    ) -> None:
        """Begin with all cases to be done.

        Args:
            cases: In the sweep's order.
            catalogue: Their workloads.
            durations: Known so far; those of cases that end are added.
            budget: Time for all of them; None is as long as it takes.
        """
        self._cases, self._durations, self._budget = cases, durations, budget
        self._points = [
            point_of(catalogue[case.workload], case.axes, case.ranks, case.replicate)
            for case in cases
        ]
        self._protocols = [asdict(case.protocol) for case in cases]
        self._order = InformativeOrder(self._points)

    def leave_out(self, index: int) -> None:
        """Take a case out that cannot run."""
        self._order.leave_out(index)

    def recorded(self, index: int, status: str) -> None:
        """Take a case out that ended in an earlier run."""
        self._order.ended(index, status)

    def ended(self, index: int, status: str, seconds: float) -> None:
        """Note how a case ended and how long it took."""
        self._durations.observe(self._points[index], self._protocols[index], status, seconds)
        self._order.ended(index, status)

    def next(self) -> int | None:
        """Return the number of the case to run next; None if none is left or fits the budget."""
        if self._budget is not None:
            return self._order.next(self.estimate, self._is_known, self._budget.left_s)
        return next(iter(self._order.left), None)

    def allows(self, seconds: float) -> bool:
        """Return whether work of this duration ends within the budget."""
        return self._budget is None or seconds <= self._budget.left_s

    def estimate(self, index: int) -> float:
        """Return the seconds that a case probably takes."""
        return self._durations.estimate(self._points[index], self._protocols[index])

    def _is_known(self, index: int) -> bool:
        return self._durations.knows_kind(self._points[index])

    def seconds_left(self) -> float:
        """Return the estimated seconds until the end of the run, at most those of its budget."""
        estimated = sum(map(self.estimate, self._order.left))
        return estimated if self._budget is None else max(0.0, min(estimated, self._budget.left_s))

    def description(self, span: Callable[[float], str]) -> str:
        """Return the number of cases to run and their time in one line; empty without cases.

        Args:
            span: Returns seconds in words.
        """
        remaining = self._order.left
        if not remaining:
            return ""
        observed = sum(self._durations.knows(self._points[index]) for index in remaining)
        source = "earlier cases on such a machine" if observed else "the protocol alone"
        if 0 < observed < len(remaining):
            source += f" and, for {len(remaining) - observed} of them, the protocol alone"
        estimated = sum(map(self.estimate, remaining))
        cases = f"{len(remaining)} case{'s' * (len(remaining) > 1)} to run"
        line = f"{cases}, about {span(estimated)}, estimated from {source}"
        if self._budget is None:
            return line
        return f"{line}; the most informative first, for {span(self._budget.seconds)}"

    def plan(self) -> list[int]:
        """Return the numbers of the cases that would run if all went as estimated, in order."""
        if self._budget is None:
            return self._order.left
        left_s, order = self._budget.left_s, []
        while (index := self._order.next(self.estimate, self._is_known, left_s)) is not None:
            order.append(index)
            left_s -= self.estimate(index)
            self._order.ended(index, "ok")
        return order
