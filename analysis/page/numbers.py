"""Numbers of the page: text, method and the records that they come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.methods import MEASURED, METHODS, method_of
from bench.records.record import RecordJson

# Marks beside the words, so that methods differ without colour.
MARKS = {"measured": "●", "traced": "◇", "predicted": "≈", "published": "□"}
PUBLISHED = "published"
_GB = 1e9


@dataclass(frozen=True, slots=True)
class Number:
    """Number of the page.

    Attributes:
        text: Number with its unit, as displayed.
        method: ``measured``, ``traced``, ``predicted`` or ``published``.
        run_ids: Records that it comes from; empty for published numbers.
        metric: Metric of those records.
    """

    text: str
    method: str
    run_ids: tuple[str, ...] = ()
    metric: str = ""

    def __str__(self) -> str:
        """Return the displayed text."""
        return self.text

    @property
    def mark(self) -> str:
        """Mark of the method."""
        return MARKS[self.method]


def value_of(record: RecordJson, metric: str) -> float | None:
    """Return the value of a record's metric; None if it has none."""
    value: float | None = record["metrics"].get(metric, {}).get("value")
    return value


def method_of_metric(record: RecordJson, metric: str) -> str:
    """Return the method of a record's metric; `MEASURED` if the record lacks the metric."""
    entry: Mapping[str, Any] | None = record["metrics"].get(metric)
    return MEASURED if entry is None else method_of(metric, entry["method"])


def number(record: RecordJson, metric: str, text: str) -> Number:
    """Return a number of one record's metric."""
    return Number(text, method_of_metric(record, metric), (record["run_id"],), metric)


def derived(records: Sequence[RecordJson], metric: str, text: str) -> Number:
    """Return a number that is computed from several records' metric, as a ratio.

    Its method is the least certain one of theirs.
    """
    methods = {method_of_metric(record, metric) for record in records}
    run_ids = tuple(dict.fromkeys(record["run_id"] for record in records))
    return Number(text, max(methods, key=METHODS.index), run_ids, metric)


def gigabytes(value: float) -> str:
    """Return bytes as decimal gigabytes with three digits, the unit of a device's memory."""
    return f"{significant(value / _GB)} GB"


def significant(value: float) -> str:
    """Return a number with three significant digits and separators of thousands."""
    if value == 0:
        return "0"
    rounded = round(value, 2 - _exponent(value))
    return f"{rounded:,.{max(0, 2 - _exponent(rounded))}f}"


def _exponent(value: float) -> int:
    """Return the decimal exponent of a number."""
    return int(f"{abs(value):e}".partition("e")[2])
