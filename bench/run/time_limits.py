"""Time limits of cases, scaled to the speed that this machine has at the moment.

A limit ends cases that hang. The duration of other cases depends on the machine and its load, so
the limit of a sweep is stated for an idle machine like the reference, and grows with the time that
a fixed workload takes here.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

# The time of `fixed_workload` on two idle cores of an AMD EPYC server, with torch 2.13.
REFERENCE_S = 0.15
# Limits grow by this factor at most.
LARGEST_FACTOR = 20.0
# A limit that grows by less is not worth another try.
_WORTHWHILE = 1.2
_ROUNDS, _SMALL_STEPS = 12, 125


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """Longest time of a case.

    Attributes:
        nominal_s: Limit that the sweep or the user states.
        factor: Factor of the limit, 1 or more; None if it is taken literally.
    """

    nominal_s: float
    factor: float | None

    @property
    def seconds(self) -> float:
        """Return the limit in wall time."""
        return self.nominal_s * (self.factor or 1.0)

    def __str__(self) -> str:
        if self.factor in {None, 1.0}:
            return f"{self.nominal_s:g} s"
        return (
            f"{self.seconds:.0f} s ({self.nominal_s:g} s for a machine "
            f"{self.factor:.1f} times as fast)"
        )


class TimeLimits:
    """Limit of each case of a sweep, which follows the machine's speed."""

    def __init__(
        self, nominal_s: float, *, scaled: bool, measure: Callable[[], float] | None = None
    ) -> None:
        """Set the limit up without measuring anything yet.

        Args:
            nominal_s: Seconds on the reference.
            scaled: Whether the machine's speed matters; False takes the limit literally.
            measure: Returns the wall seconds of the workload; `fixed_workload` if None.
        """
        self._nominal_s, self._scaled = nominal_s, scaled
        self._measure = measure or fixed_workload
        self._current = None if scaled else TimeLimit(nominal_s, None)

    @property
    def current(self) -> TimeLimit:
        """Return the limit of the next case; the first call measures the machine."""
        if self._current is None:
            self._current = self._calibrated()
        return self._current

    def longer(self) -> TimeLimit | None:
        """Measure again after a timeout; the new limit if it is worth another try, else None.

        The machine may have become slower since. Later cases run under the new limit, too.
        """
        if not self._scaled:
            return None
        before, self._current = self.current, self._calibrated()
        worthwhile = self._current.seconds >= _WORTHWHILE * before.seconds
        return self._current if worthwhile else None

    def _calibrated(self) -> TimeLimit:
        factor = min(max(self._measure() / REFERENCE_S, 1.0), LARGEST_FACTOR)
        return TimeLimit(self._nominal_s, factor)


def fixed_workload() -> float:
    """Return the wall seconds of work like a case's: many small operators, some large products.

    Stops where a machine is slower than limits are scaled for.
    """
    import torch

    weight = torch.full((64, 64), 0.01, requires_grad=True)
    large = torch.full((768, 768), 0.01)

    def work() -> None:
        for _ in range(_SMALL_STEPS):
            torch.relu(weight @ weight).sum().backward()
        torch.mm(large, large)

    # The first pass includes one-time work, such as starting threads.
    work()
    start = time.perf_counter()
    for _ in range(_ROUNDS):
        work()
        seconds = time.perf_counter() - start
        if seconds > LARGEST_FACTOR * REFERENCE_S:
            break
    return seconds
