"""Long DataFrames of what records nest: a row for each part, sample, rank or counted name.

Each takes the DataFrame of `analysis.frame`, or a selection of its rows, and returns the columns of
`LEADING` (those that identify a series, the size, the record), those named by `also`, then:

==================  ======================================================================
`metric_values`     metric, unit, value, low, high, n, method, quality, reason, flags
`parts`             part, the metric's column, ``all_`` and the metric's column
`samples`           part (empty for the whole metric), step (from 1), the metric's column
`rank_values`       rank (from 0), the metric's column
`breakdown`         what is counted (module, operator, kernel, phase), its count
`telemetry`         sensor, reading (from 0), value
==================  ======================================================================
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.columns import categories, column_name, numbers
from analysis.frame import IDENTITY
from analysis.methods import method_of
from bench.records.record import RecordJson

LEADING = (*IDENTITY, "tokens", "run_id")
# Names of what is counted and of the count, for breakdowns whose name is not "<count>_by_<what>".
_BREAKDOWNS = {
    "collective_bytes": ("operator", "collective_bytes"),
    "collective_calls": ("operator", "collective_calls"),
    "collective_messages": ("operator", "collective_messages"),
    "components": ("component", "parameters"),
}

# Values of one line of a nested table, without the leading columns.
_Line = tuple[Any, ...]


def metric_values(
    table: pd.DataFrame, metrics: Sequence[str] = (), also: Sequence[str] = ()
) -> pd.DataFrame:
    """Return every metric and part of a metric of the records, or the named ones.

    Args:
        table: Records.
        metrics: Names of metrics or parts; all if empty.
        also: Further columns of `table`.
    """

    def lines(record: RecordJson) -> Iterable[_Line]:
        for name, metric in record["metrics"].items():
            if not metrics or name in metrics:
                low, high = (metric["ci"] or (None, None))[:2]
                number = metric["value"]
                method = None if number is None else method_of(name, metric["method"])
                flags = "; ".join(metric["flags"]) or None
                yield (
                    *(name, metric["unit"], number, low, high, metric["n"]),
                    *(method, metric["quality"], metric["reason"], flags),
                )

    kinds = {
        **{"metric": categories, "unit": categories, "value": numbers, "low": numbers},
        **{"high": numbers, "n": numbers, "method": categories, "quality": categories},
        **{"reason": categories, "flags": categories},
    }
    return _long(table, lines, kinds, also)


def parts(table: pd.DataFrame, metric: str, also: Sequence[str] = ()) -> pd.DataFrame:
    """Return the parts of a metric that have a value, such as ``peak_tracked_bytes.activations``.

    Args:
        table: Records.
        metric: Name of the metric, such as ``peak_tracked_bytes``, ``operator_calls`` (by kind),
            ``phase_time_s`` or ``predicted_phase_time_s`` (by phase).
        also: Further columns of `table`.
    """
    column, begin = _column(table, metric), f"{metric}."

    def lines(record: RecordJson) -> Iterable[_Line]:
        metrics = record["metrics"]
        whole = metrics.get(metric, {}).get("value")
        for name, part in metrics.items():
            if name.startswith(begin) and part["value"] is not None:
                yield name.removeprefix(begin), part["value"], whole

    kinds = {"part": categories, column: numbers, f"all_{column}": numbers}
    return _long(table, lines, kinds, also)


def samples(table: pd.DataFrame, metric: str, also: Sequence[str] = ()) -> pd.DataFrame:
    """Return the samples of a metric and of its parts, such as the time of each step by phase."""
    column, begin = _column(table, metric), f"{metric}."

    def lines(record: RecordJson) -> Iterable[_Line]:
        for name, entry in record["metrics"].items():
            if name == metric or name.startswith(begin):
                part = name.removeprefix(metric).removeprefix(".")
                for step, value in enumerate(entry["samples"], start=1):
                    yield part, step, value

    return _long(table, lines, {"part": categories, "step": numbers, column: numbers}, also)


def rank_values(table: pd.DataFrame, metric: str, also: Sequence[str] = ()) -> pd.DataFrame:
    """Return the value of each rank; that of the record if it has one rank."""
    column = _column(table, metric)

    def lines(record: RecordJson) -> Iterable[_Line]:
        entry = record["metrics"].get(metric, {})
        values = [value for value in entry.get("ranks", ()) if value is not None]
        yield from enumerate(values or [v for v in [entry.get("value")] if v is not None])

    return _long(table, lines, {"rank": numbers, column: numbers}, also)


def breakdown(table: pd.DataFrame, name: str, also: Sequence[str] = ()) -> pd.DataFrame:
    """Return a breakdown of each record that has it.

    Args:
        table: Records.
        name: Name of a breakdown, such as ``activation_bytes_by_module``, ``calls_by_operator``,
            ``flops_by_phase``, ``launches_by_kernel`` or ``collective_bytes`` (by operator); of one
            of the static costs (``components``, ``forward_flops_by_component``); or of a note
            (``predicted_s_by_kind``, ``predicted_s_by_term``). ``<count>_by_<what>`` has the
            columns ``<what>`` and ``<count>``.
        also: Further columns of `table`.
    """
    what, count = _BREAKDOWNS.get(name) or reversed(name.split("_by_", 1))

    def lines(record: RecordJson) -> Iterable[_Line]:
        for part in (record["breakdown"], record["facts"] or {}, record["notes"]):
            if isinstance(part.get(name), dict):
                yield from part[name].items()
                return

    return _long(table, lines, {what: categories, count: numbers}, also)


def telemetry(table: pd.DataFrame, also: Sequence[str] = ()) -> pd.DataFrame:
    """Return the sensor readings around and between the timed steps."""

    def lines(record: RecordJson) -> Iterable[_Line]:
        for sensor, values in record["telemetry"].items():
            for number, value in enumerate(values):
                yield sensor, number, value

    return _long(table, lines, {"sensor": categories, "reading": numbers, "value": numbers}, also)


def _long(
    table: pd.DataFrame,
    lines: Callable[[RecordJson], Iterable[_Line]],
    kinds: Mapping[str, Callable[[Sequence[Any]], Any]],
    also: Sequence[str],
) -> pd.DataFrame:
    """Return a row for each line of each record.

    Args:
        table: Records.
        lines: Function that yields the lines of a record.
        kinds: Columns of a line, each with the function that gives it its type.
        also: Further columns of `table`.
    """
    positions: list[int] = []
    cells: list[_Line] = []
    for position, record in enumerate(table["record"]):
        for line in lines(record):
            positions.append(position)
            cells.append(line)
    leading = table.loc[:, [*LEADING, *(name for name in also if name not in LEADING)]]
    long = leading.iloc[positions].reset_index(drop=True)
    columns = zip(*cells, strict=True) if cells else [()] * len(kinds)
    for (name, kind), values in zip(kinds.items(), columns, strict=True):
        long[name] = kind(values)
    return long


def _column(table: pd.DataFrame, metric: str) -> str:
    """Return the column of a metric of these records; its name if none has the metric."""
    for record in table["record"]:
        for name, entry in record["metrics"].items():
            if name == metric or name.startswith(f"{metric}."):
                return column_name(metric, entry["unit"])
    return metric
