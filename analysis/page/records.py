"""Table of the page's records, choices of its filters, and the records as compressed data."""

import base64
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.chapter import Chapter
from analysis.methods import METHODS, method_of_record
from analysis.page.numbers import Number, method_of_metric, number, value_of
from bench.records.record import RecordJson

FILTERS = ("workload", "machine", "variant", "method")
_READ = ["run_id", *FILTERS, "series", "tokens", "entry", "ranks", "status", "reason", "record"]


@dataclass(frozen=True, slots=True)
class Column:
    """Column of the table of records.

    Attributes:
        heading: Heading with the unit.
        metrics: Candidate metrics; the first that a record has is displayed.
        unit: Unit of display, in the metric's unit.
        digits: Digits after the point.
    """

    heading: str
    metrics: tuple[str, ...]
    unit: float
    digits: int


COLUMNS = (
    Column("ms/step", ("step_time_s", "predicted_step_time_s"), 1e-3, 1),
    Column("peak MiB", ("peak_allocated_bytes", "peak_resident_bytes"), 2**20, 1),
    Column("tracked MiB", ("peak_tracked_bytes",), 2**20, 1),
    Column("operator calls", ("operator_calls",), 1, 0),
    Column("GFLOP/s", ("achieved_flops",), 1e9, 1),
)


@dataclass(frozen=True, slots=True)
class RecordRow:
    """Row of the table: a record.

    Attributes:
        run_id: Identity of the record.
        workload: Name of the workload.
        machine: Label of the machine.
        variant: Backend, precision and other settings.
        method: Method of the record.
        series: Label of the series.
        tokens: Problem size, in words; empty if there is none.
        entry: Name of the structure; empty if there is none.
        ranks: Number of ranks.
        status: Status of the case.
        reason: Reason of a status other than ``ok``.
        cells: Numbers in the order of `COLUMNS`; None where the record has no value.
        commit: Shortened commit, with a star if there were uncommitted changes.
        flags: Flags of the step time.
    """

    run_id: str
    workload: str
    machine: str
    variant: str
    method: str
    series: str
    tokens: str
    entry: str
    ranks: int
    status: str
    reason: str
    cells: tuple[Number | None, ...]
    commit: str
    flags: str

    @property
    def filtered(self) -> list[tuple[str, str]]:
        """Names and values that the page filters by."""
        values = (self.workload, self.machine, self.variant, self.method)
        return list(zip(FILTERS, values, strict=True))


def record_rows(table: pd.DataFrame) -> list[RecordRow]:
    """Return a row for each record of the DataFrame."""
    return [
        RecordRow(
            run_id=line.run_id,
            **{name: str(getattr(line, name)) for name in FILTERS},
            series=line.series,
            tokens="" if pd.isna(line.tokens) else f"{line.tokens:,}",
            entry="" if pd.isna(line.entry) else line.entry,
            ranks=line.ranks,
            status=line.status,
            reason="" if pd.isna(line.reason) else line.reason,
            cells=tuple(_cell(line.record, column) for column in COLUMNS),
            commit=_commit(line.record),
            flags="; ".join(line.record["metrics"].get("step_time_s", {}).get("flags", ())),
        )
        for line in table[_READ].itertuples()
    ]


def _cell(record: RecordJson, column: Column) -> Number | None:
    for metric in column.metrics:
        value = value_of(record, metric)
        if value is not None:
            return number(record, metric, f"{value / column.unit:,.{column.digits}f}")
    return None


def _commit(record: RecordJson) -> str:
    git = record["git"]
    return (git["sha"] or "unknown")[:8] + ("*" if git["dirty"] else "")


def choices(rows: Sequence[RecordRow]) -> dict[str, list[str]]:
    """Return the values of each filter; methods in the order of certainty."""
    values: dict[str, set[str]] = {name: set() for name in FILTERS}
    for row in rows:
        for name, value in row.filtered:
            values[name].add(value)
    listed = {name: sorted(found) for name, found in values.items()}
    listed["method"] = [method for method in METHODS if method in values["method"]]
    return listed


def compressed(records: Iterable[RecordJson], chapters: Iterable[Chapter]) -> str:
    """Return records by identity and the chapters' tables, as base64 of compressed JSON.

    Args:
        records: Records of the page.
        chapters: Chapters whose numbers link to the records.
    """
    by_id = {record["run_id"]: record for record in records}
    tables = {
        chapter.name: _numbers(chapter.table, by_id)
        for chapter in chapters
        if chapter.table is not None
    }
    content = {"records": by_id, "tables": tables}
    text = json.dumps(content, separators=(",", ":"), sort_keys=True, allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _numbers(table: pd.DataFrame, records: Mapping[str, RecordJson]) -> dict[str, Any]:
    """Return a table's columns and lines, with the method of each line's numbers."""
    lines = json.loads(table.to_json(orient="values", double_precision=15))
    columns = [str(name) for name in table.columns]
    methods = []
    for line in lines:
        named = dict(zip(columns, line, strict=True))
        record = records.get(str(named.get("run_id")))
        methods.append("" if record is None else _line_method(record, named.get("metric")))
    return {"columns": columns, "lines": lines, "methods": methods}


def _line_method(record: RecordJson, metric: str | None) -> str:
    """Return the method of a line: that of its metric, else that of the record."""
    if metric is not None and metric in record["metrics"]:
        return method_of_metric(record, metric)
    return method_of_record(record)
