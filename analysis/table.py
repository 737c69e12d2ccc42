"""Records as a table: one row each, the columns that people compare."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.record import Record, metric

# Column -> metric.
FIGURES = {
    "step_time_s": "step_time_s",
    "peak_resident_bytes": "peak_resident_bytes",
    "peak_allocated_bytes": "peak_allocated_bytes",
    "peak_tracked_bytes": "peak_tracked_bytes",
    "operator_calls": "operator_calls",
    "kernel_launches": "kernel_launches",
    "achieved_flops": "achieved_flops",
    "energy_per_step_j": "energy_per_step_j",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One record, as views use it.

    Attributes:
        series: What is measured: workload and size.
        variant: How: backend and precision.
        device: On what.
        tokens: Problem size.
        entry: Which structure, where the workload has one.
        replicate: Its number among its like.
        status: How the case ended.
        reason: Why, if not well.
        figures: Metrics by column; None where there is none.
        commit: Source of the measurement, shortened; with a star if uncommitted.
        flags: What a reader of its step time should know.
    """

    series: str
    variant: str
    device: str
    tokens: float
    entry: str
    replicate: int
    status: str
    reason: str
    figures: dict[str, float | None]
    commit: str
    flags: str


def newest(records: Sequence[Record]) -> list[Record]:
    """The last record of each case of each sweep on each machine.

    A case is a cell and a replicate of it; earlier records of it are of other source or software.
    """
    last: dict[tuple[object, ...], Record] = {}
    for record in sorted(records, key=lambda r: r["started_at"]):
        machine = (record["host"]["hostname_hash"], record["devices"][0]["uuid_hash"])
        last[record["sweep"], record["cell_id"], record["replicate"], *machine] = record
    return list(last.values())


def rows(records: Sequence[Record]) -> list[Row]:
    """A row for each record, sorted by series, variant, device, tokens."""
    return sorted(map(_row, records), key=lambda r: (r.series, r.variant, r.device, r.tokens))


def _row(record: Record) -> Row:
    workload, git = record["workload"], record["git"]
    labels: dict[str, Any] = workload["labels"]
    sha = (git["sha"] or "unknown")[:8]
    return Row(
        series=str(labels.get("series", workload["name"])),
        variant=str(labels.get("variant", "")),
        device=record["devices"][0]["name"],
        tokens=float(labels.get("tokens", 0)),
        entry=str(workload["config"].get("entry", "")),
        replicate=record["replicate"],
        status=record["status"],
        reason=record["reason"] or "",
        figures={column: metric(record, name) for column, name in FIGURES.items()},
        commit=sha + ("*" if git["dirty"] else ""),
        flags="; ".join(record["metrics"].get("step_time_s", {}).get("flags", ())),
    )


def as_csv(table: Sequence[Row]) -> str:
    """The table as CSV; an absent figure is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ("series", "variant", "device", "tokens", "entry", "replicate", "status", "reason")
    writer.writerow([*names, *FIGURES, "commit", "flags"])
    for row in table:
        figures = ["" if row.figures[c] is None else f"{row.figures[c]:.6g}" for c in FIGURES]
        plain = [getattr(row, name) for name in names]
        writer.writerow([*plain, *figures, row.commit, row.flags])
    return out.getvalue()
