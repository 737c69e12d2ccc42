"""Records as a table: one row each."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.records.record import RecordJson

# Columns that every table of ours begins with: what a series of records is known by.
IDENTITY = ("workload", "series", "variant", "device", "ranks")
_WHOLE = (*IDENTITY, "tokens", "entry", "replicate", "status", "reason")

Number = int | float
Cell = str | Number | None


@dataclass(frozen=True, slots=True)
class Row:
    """One record, as views use it.

    Attributes:
        workload: Name of its workload.
        series: What is measured: workload and size.
        variant: How: backend and precision.
        device: On what.
        ranks: How many processes worked on it together.
        tokens: Problem size; 0 if the workload has none.
        entry: Which structure, where the workload has one.
        replicate: Its number among its like.
        status: How the case ended.
        reason: Why, if not well.
        commit: Source of the measurement, shortened; with a star if uncommitted.
        record: The record itself.
    """

    workload: str
    series: str
    variant: str
    device: str
    ranks: int
    tokens: float
    entry: str
    replicate: int
    status: str
    reason: str
    commit: str
    record: RecordJson

    @property
    def identity(self) -> tuple[Cell, ...]:
        """The values of the `IDENTITY` columns."""
        return self.workload, self.series, self.variant, self.device, self.ranks

    @property
    def flags(self) -> str:
        """What a reader of its step time should know."""
        return "; ".join(self._metric("step_time_s").get("flags", ()))

    def value(self, metric: str) -> Number | None:
        """The figure of a metric, or None."""
        value: Number | None = self._metric(metric).get("value")
        return value

    def reason_of(self, metric: str) -> str | None:
        """Why a metric has no figure, as its record says; None if it does not say."""
        reason: str | None = self._metric(metric).get("reason")
        return reason

    def parts(self, metric: str) -> dict[str, Number]:
        """The figures of a metric's parts, ``<metric>.<part>``, by part."""
        begin = f"{metric}."
        return {
            name.removeprefix(begin): found["value"]
            for name, found in self.record["metrics"].items()
            if name.startswith(begin) and found["value"] is not None
        }

    def samples(self, metric: str) -> list[float]:
        """The samples behind a metric, in order."""
        return list(self._metric(metric).get("samples", ()))

    def interval(self, metric: str) -> tuple[float, float] | None:
        """The interval of a metric, where its samples allow one."""
        found = self._metric(metric).get("ci")
        return (found[0], found[1]) if found else None

    def each_rank(self, metric: str) -> list[Number]:
        """The figure of each rank that has one; the figure itself where there is one rank."""
        found = self._metric(metric)
        each = [value for value in found.get("ranks", ()) if value is not None]
        alone = found.get("value")
        return each or ([] if alone is None else [alone])

    def breakdown(self, name: str) -> dict[str, int]:
        """A breakdown of the record; empty if it has none."""
        return dict(self.record["breakdown"].get(name, {}))

    def _metric(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.record["metrics"].get(name, {})
        return found


def newest(records: Sequence[RecordJson]) -> list[RecordJson]:
    """The last record of each case of each sweep on each machine.

    A case is a cell and a replicate of it; earlier records of it are of other source or software.
    """
    last: dict[tuple[object, ...], RecordJson] = {}
    for record in sorted(records, key=lambda r: r["started_at"]):
        machine = (record["host"]["hostname_hash"], record["devices"][0]["uuid_hash"])
        ranks = record["workload"]["ranks"]
        case = (record["sweep"], record["cell_id"], ranks, record["replicate"])
        last[*case, *machine] = record
    return list(last.values())


def rows(records: Sequence[RecordJson]) -> list[Row]:
    """A row for each record, sorted by series, variant, device, ranks, tokens."""
    return sorted(
        map(_row, records),
        key=lambda r: (r.series, r.variant, r.device, r.ranks, r.tokens, r.entry, r.replicate),
    )


def _row(record: RecordJson) -> Row:
    workload, git = record["workload"], record["git"]
    labels: dict[str, Any] = workload["labels"]
    sha = (git["sha"] or "unknown")[:8]
    return Row(
        workload=workload["name"],
        series=str(labels.get("series", workload["name"])),
        variant=str(labels.get("variant", "")),
        device=", ".join(sorted({device["name"] for device in record["devices"]})),
        ranks=workload["ranks"],
        tokens=float(labels.get("tokens", 0)),
        entry=str(workload["config"].get("entry", "")),
        replicate=record["replicate"],
        status=record["status"],
        reason=record["reason"] or "",
        commit=sha + ("*" if git["dirty"] else ""),
        record=record,
    )


def as_csv(columns: Sequence[str], lines: Iterable[Sequence[Cell]]) -> str:
    """Lines as CSV, numbers in full; what is absent is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(lines)
    return out.getvalue()


def cases_as_csv(table: Sequence[Row]) -> str:
    """Every row with every metric that any record has, parts of metrics left out."""
    metrics = sorted({name for row in table for name in row.record["metrics"] if "." not in name})
    columns = (*_WHOLE, *metrics, "commit", "flags", "run_id")
    lines = (
        [
            *(getattr(row, name) for name in _WHOLE),
            *(row.value(name) for name in metrics),
            *(row.commit, row.flags, row.record["run_id"]),
        ]
        for row in table
    )
    return as_csv(columns, lines)
