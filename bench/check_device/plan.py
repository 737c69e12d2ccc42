"""Stages of a device check, in order, and their shares of the time."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from bench.check_device.check import Check

BUDGET_MIN = 12.0


@dataclass(frozen=True, slots=True)
class Stage:
    """Stage of a device check.

    Attributes:
        name: Name of its module in `bench.check_device.stages`.
        weight: Share of the time, in seconds of a budget of 12 minutes.
        summary: One line for people.
    """

    name: str
    weight: float
    summary: str

    def run(self, check: Check) -> Mapping[str, Any]:
        """Run it, and return what it found that no record holds."""
        module = import_module(f"bench.check_device.stages.{self.name}")
        function: Callable[[Check], Mapping[str, Any]] = module.run
        return function(check)


STAGES = (
    Stage("versions", 15, "device, libraries, sensors"),
    Stage("compilation", 45, "kernels that the cache lacks"),
    Stage("accuracy", 95, "operators against float64, and equal bits"),
    Stage("calibration", 40, "achieved rates, energy counter, idle power"),
    Stage("kernels", 125, "kernel times against the roofline"),
    Stage("baselines", 95, "other implementations"),
    Stage("published", 20, "times as a baseline's were published"),
    Stage("tuning", 70, "launch options"),
    Stage("step", 185, "a whole training step"),
    Stage("communication", 25, "collectives of two devices"),
)
NAMES = tuple(stage.name for stage in STAGES)


def deadline(stage: Stage, pending: Iterable[Stage], now: float, end: float) -> float:
    """Return the deadline of a stage.

    The remaining time is shared by weight among the remaining stages, so time that a stage does not
    use goes to the next ones.

    Args:
        stage: Stage that begins.
        pending: Remaining stages, this one included.
        now: Current time.
        end: Time at which the check has to end.
    """
    total = sum(pending_stage.weight for pending_stage in pending)
    return now + max(0.0, end - now) * stage.weight / total
