"""Comparison of two records of one case that were traced: all counts must be equal."""

from dataclasses import dataclass
from typing import Any

from bench.records.record import Record


@dataclass(frozen=True, slots=True)
class Difference:
    """Number in which a repeated trace differs from the recorded one.

    Attributes:
        name: Metric, or part of a breakdown or of the static costs.
        recorded: Recorded number; None if the record lacks it.
        repeated: Number of the repeated trace; None if that lacks it.
    """

    name: str
    recorded: Any
    repeated: Any

    def __str__(self) -> str:
        """Return the difference in words."""
        return f"{self.name}: recorded {self.recorded}, traced again {self.repeated}"


@dataclass(frozen=True, slots=True)
class Agreement:
    """Comparison of a record with a repeated trace of its case.

    Attributes:
        run_id: Identity of the record.
        case: Case in words.
        compared: Number of compared counts.
        differences: Those that differ.
        other_torch: Versions of torch, if they differ; else empty.
    """

    run_id: str
    case: str
    compared: int
    differences: tuple[Difference, ...]
    other_torch: str = ""


def agreement(recorded: Record, repeated: Record, case: str, method: str) -> Agreement:
    """Return the comparison of all counts of two records.

    Args:
        recorded: Record that was kept.
        repeated: Record of a trace of the same case.
        case: Case in words.
        method: Method of the metrics that are compared: other metrics need not be equal.
    """
    before, after = _counts(recorded, method), _counts(repeated, method)
    names = sorted(before.keys() | after.keys())
    differences = tuple(
        Difference(name, before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    )
    versions = [record.software.get("torch") for record in (recorded, repeated)]
    other = "" if versions[0] == versions[1] else " and ".join(map(str, versions))
    return Agreement(recorded.run_id, case, len(names), differences, other)


def _counts(record: Record, method: str) -> dict[str, Any]:
    """Return the counts of a record by name: metrics of a method, breakdowns, static costs."""
    counts = {
        name: metric.value
        for name, metric in record.metrics.items()
        if metric.method == method and metric.value is not None
    }
    for table, parts in record.breakdown.items():
        counts |= {f"{table}.{part}": value for part, value in parts.items()}
    facts = record.as_dict()["facts"] or {}
    numbers = {name: value for name, value in facts.items() if isinstance(value, int)}
    return counts | {f"costs.{name}": value for name, value in numbers.items()}
