"""Table of records, one row for each record."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.records.record import RecordJson

# Leading columns of every table: the identity of a series of records.
IDENTITY = ("workload", "series", "variant", "device", "ranks")
_CASE_COLUMNS = (*IDENTITY, "tokens", "entry", "replicate", "status", "reason")

Number = int | float
Cell = str | Number | None


@dataclass(frozen=True, slots=True)
class Row:
    """Record with the fields that views group and sort by.

    Attributes:
        workload: Name of the workload.
        series: Label of the series, such as a model preset.
        variant: Backend, precision and other settings.
        device: Names of the devices.
        ranks: Number of processes of the case.
        context_ranks: Number of ranks that divide each example among them.
        tokens: Problem size; 0 if the workload has none.
        entry: Name of the structure; empty if the workload has none.
        replicate: Number of the repetition.
        status: Status of the case.
        reason: Reason of a status other than ``ok``; else empty.
        commit: Shortened commit of the source, with a star if there were uncommitted changes.
        record: The full record.
    """

    workload: str
    series: str
    variant: str
    device: str
    ranks: int
    context_ranks: int
    tokens: float
    entry: str
    replicate: int
    status: str
    reason: str
    commit: str
    record: RecordJson

    @property
    def identity(self) -> tuple[Cell, ...]:
        """Values of the `IDENTITY` columns."""
        return self.workload, self.series, self.variant, self.device, self.ranks

    @property
    def flags(self) -> str:
        """Flags of the step time, joined by semicolons."""
        return "; ".join(self._metric("step_time_s").get("flags", ()))

    def value(self, metric: str) -> Number | None:
        """Return the value of a metric, or None."""
        value: Number | None = self._metric(metric).get("value")
        return value

    def reason_of(self, metric: str) -> str | None:
        """Return the reason for which a metric has no value; None if the record has none."""
        reason: str | None = self._metric(metric).get("reason")
        return reason

    def parts(self, metric: str) -> dict[str, Number]:
        """Return the values of a metric's parts, ``<metric>.<part>``, by part."""
        begin = f"{metric}."
        return {
            name.removeprefix(begin): metric_value["value"]
            for name, metric_value in self.record["metrics"].items()
            if name.startswith(begin) and metric_value["value"] is not None
        }

    def samples(self, metric: str) -> list[float]:
        """Return the samples of a metric, in order."""
        return list(self._metric(metric).get("samples", ()))

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Return the confidence interval of a metric; None if there is none."""
        bounds = self._metric(metric).get("ci")
        return (bounds[0], bounds[1]) if bounds else None

    def rank_values(self, metric: str) -> list[Number]:
        """Return the values of the ranks that have one; with one rank, the metric's value."""
        metric_value = self._metric(metric)
        per_rank = [value for value in metric_value.get("ranks", ()) if value is not None]
        value = metric_value.get("value")
        return per_rank or ([] if value is None else [value])

    def breakdown(self, name: str) -> dict[str, int]:
        """Return a breakdown of the record; empty if it has none of that name."""
        return dict(self.record["breakdown"].get(name, {}))

    def _metric(self, name: str) -> dict[str, Any]:
        value: dict[str, Any] = self.record["metrics"].get(name, {})
        return value


def newest(records: Sequence[RecordJson]) -> list[RecordJson]:
    """Return the newest record of each case (cell and replicate), sweep and machine.

    Earlier records of a case are of other source or software.
    """
    last: dict[tuple[object, ...], RecordJson] = {}
    for record in sorted(records, key=lambda r: r["started_at"]):
        machine = (record["host"]["hostname_hash"], record["devices"][0]["uuid_hash"])
        ranks = record["workload"]["ranks"]
        case = (record["sweep"], record["cell_id"], ranks, record["replicate"])
        last[*case, *machine] = record
    return list(last.values())


def rows(records: Sequence[RecordJson]) -> list[Row]:
    """Return a row for each record, sorted by series, variant, device, ranks and tokens."""
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
        context_ranks=int(workload["config"].get("context_ranks", 1)),
        tokens=float(labels.get("tokens", 0)),
        entry=str(workload["config"].get("entry", "")),
        replicate=record["replicate"],
        status=record["status"],
        reason=record["reason"] or "",
        commit=sha + ("*" if git["dirty"] else ""),
        record=record,
    )


def as_csv(columns: Sequence[str], lines: Iterable[Sequence[Cell]]) -> str:
    """Return lines as CSV, numbers at full precision, absent values as empty cells."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(lines)
    return out.getvalue()


def cases_as_csv(table: Sequence[Row]) -> str:
    """Return all rows with all metrics that any record has, without parts of metrics."""
    metrics = sorted({name for row in table for name in row.record["metrics"] if "." not in name})
    columns = (*_CASE_COLUMNS, *metrics, "commit", "flags", "run_id")
    lines = (
        [
            *(getattr(row, name) for name in _CASE_COLUMNS),
            *(row.value(name) for name in metrics),
            *(row.commit, row.flags, row.record["run_id"]),
        ]
        for row in table
    )
    return as_csv(columns, lines)
