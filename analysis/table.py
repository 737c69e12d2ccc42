"""Rows of the DataFrame of records: the newest of each case, in the order of views."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.frame import IDENTITY
from bench.records.record import RecordJson

__all__ = [
    "IDENTITY",
    "Cell",
    "Number",
    "Row",
    "as_csv",
    "as_parquet",
    "exported",
    "newest",
    "rows",
    "stacked",
]

Number = int | float
Cell = str | Number | None

# Columns that records of one case on one machine share.
_CASE = (
    *("sweep", "cell_id", "ranks", "replicate"),
    *("host_hostname_hash", "device_uuid_hash"),
)
_ORDER = ["series", "variant", "device", "ranks", "tokens", "entry", "replicate", "run_id"]


@dataclass(frozen=True, slots=True)
class Row:
    """Row of the DataFrame, with the fields that views group and sort by.

    Attributes:
        index: Label of the row in the DataFrame.
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
        method: Method of the record: ``measured``, ``traced`` or ``predicted``.
        commit: Shortened commit of the source, with a star if there were uncommitted changes.
        record: The full record.
    """

    index: int
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
    method: str
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


def newest(table: pd.DataFrame) -> pd.DataFrame:
    """Return the newest record of each case (cell and replicate), sweep and machine.

    Earlier records of a case are of other source or software. The result is sorted by series,
    variant, device, ranks and tokens.
    """
    latest = table.sort_values("started_at", kind="stable").drop_duplicates([*_CASE], keep="last")
    return arranged(latest)


def arranged(table: pd.DataFrame) -> pd.DataFrame:
    """Return the records sorted by series, variant, device, ranks and tokens, numbered anew."""
    return table.sort_values(_ORDER, na_position="first", ignore_index=True)


def rows(table: pd.DataFrame) -> list[Row]:
    """Return a `Row` for each row of the DataFrame of `analysis.frame`, in its order."""
    names = ["workload", "series", "variant", "device", "ranks", "context_ranks", "replicate"]
    names += ["status", "method", "record"]
    given = [table[name].tolist() for name in names]
    return [
        Row(
            index=index,
            tokens=0.0 if tokens is pd.NA else float(tokens),
            entry=entry if isinstance(entry, str) else "",
            reason="" if reason is pd.NA else reason,
            commit=(commit[:8] if isinstance(commit, str) else "unknown") + "*" * (dirty is True),
            **dict(zip(names, values, strict=True)),
        )
        for index, tokens, entry, reason, commit, dirty, *values in zip(
            table.index,
            *(table[name].tolist() for name in ("tokens", "entry", "reason", "commit", "dirty")),
            *given,
            strict=True,
        )
    ]


def exported(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of the DataFrame that files hold: all but the records themselves."""
    return table.drop(columns="record")


def as_csv(table: pd.DataFrame) -> str:
    """Return a table as CSV, numbers at full precision, absent values as empty cells."""
    text: str = table.to_csv(index=False, lineterminator="\n")
    return text


def as_parquet(table: pd.DataFrame) -> bytes:
    """Return a table as a Parquet file, with the types of its columns.

    Raises:
        ImportError: pyarrow is not installed.
    """
    file = io.BytesIO()
    table.to_parquet(file, engine="pyarrow", index=False)
    return file.getvalue()


def stacked(tables: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """Return the named columns of tables below each other; categories become text."""
    plain = [
        table[[*columns]].astype({name: "string" for name in columns if _is_category(table[name])})
        for table in tables
        if len(table)
    ]
    return pd.concat(plain, ignore_index=True) if plain else pd.DataFrame(columns=[*columns])


def _is_category(column: pd.Series) -> bool:
    return isinstance(column.dtype, pd.CategoricalDtype)
