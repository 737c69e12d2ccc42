"""Choice of the records of a figure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import pandas as pd

from analysis.errors import AnalysisError
from analysis.frame import frame
from analysis.methods import PREDICTED, TRACED
from analysis.paper.paper_cases import H200, LANGUAGE_MODEL, SETTINGS
from bench.records.record import Record, RecordJson

_noted: ContextVar[dict[str, RecordJson] | None] = ContextVar("noted", default=None)


class MissingRecordsError(AnalysisError):
    """Lack of the records of a figure."""


class Curve(NamedTuple):
    """Values over a size.

    Attributes:
        system: System, as in `analysis.palette.SYSTEMS`.
        method: ``measured``, ``traced``, ``predicted`` or ``published``.
        points: (size, value) pairs, sizes ascending.
        failed: Sizes at which the system ran out of memory.
    """

    system: str
    method: str
    points: list[tuple[float, float]]
    failed: Sequence[float] = ()

    def scaled(self, unit: float) -> "Curve":
        """Return the curve in a unit of that size."""
        return self._replace(points=[(size, value / unit) for size, value in self.points])


def as_table(records: "pd.DataFrame | Iterable[Record | RecordJson]") -> pd.DataFrame:
    """Return records as the DataFrame of `analysis.frame`."""
    return records if isinstance(records, pd.DataFrame) else frame(records)


def select(table: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """Return the rows with these values of columns; a missing column has none of them.

    Of rows of the same case, those with the same `cell_id`, the newest is returned.
    """
    rows = pd.Series(True, index=table.index)
    for column, value in values.items():
        if column not in table:
            return table.iloc[:0]
        rows &= (table[column] == value).fillna(False).astype(bool)
    chosen = table[rows].sort_values(["tokens", "started_at"], kind="stable")
    return noted(chosen.drop_duplicates(["cell_id", "replicate"], keep="last"))


@contextmanager
def noting_records() -> Iterator[dict[str, RecordJson]]:
    """Note the records that are selected inside a `with` block, by `run_id`."""
    outer, used = _noted.get(), dict[str, RecordJson]()
    _noted.set(used)
    try:
        yield used
    finally:
        _noted.set(outer)


def noted(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows, with their records noted as those of the current figure."""
    used = _noted.get()
    if used is not None:
        used.update(zip(rows["run_id"], rows["record"], strict=True))
    return rows


def training(table: pd.DataFrame, backend: str, device: str = H200, **axes: Any) -> pd.DataFrame:
    """Return simulated steps of the full model on a device, a row for each length.

    Args:
        table: Records.
        backend: Backend of the operators.
        device: Beginning of the name of the device.
        **axes: Values of further axes, None for any; one rank and recomputed blocks by default.
    """
    values = {"backend": backend, "context_ranks": 1, "checkpointing": True, **axes}
    stated = {name: value for name, value in values.items() if value is not None}
    chosen = select(table, **SETTINGS, **stated)
    chosen = chosen[chosen["device"].astype(str).str.startswith(device)]
    whole = [not idea_left_out(record) for record in chosen["record"]]
    return chosen.loc[pd.Series(whole, index=chosen.index, dtype=bool)]


def language_model(table: pd.DataFrame) -> pd.DataFrame:
    """Return simulated steps of BLOOM-560M, a row for each length."""
    values = {"workload": LANGUAGE_MODEL, "preset": "bloom-560m", "precision": "bfloat16"}
    return select(table, **values, config_variant="fair", equal="tokens", batch=1, status="ok")


def idea_left_out(record: RecordJson) -> str:
    """Return the idea that a simulated case leaves out; empty if it leaves out none."""
    return str(record["notes"].get("idea_left_out", ""))


def curve(
    system: str, rows: pd.DataFrame, value: str | Callable[[pd.Series], float], x: str = "tokens"
) -> Curve:
    """Return the curve of rows over a column.

    Args:
        system: System of the rows.
        rows: Rows, of which the last counts at each size.
        value: Column, or function of a row.
        x: Column of the sizes.
    """
    points: dict[float, float] = {}
    for _, row in rows.iterrows():
        number = row.get(value) if isinstance(value, str) else value(row)
        if number is not None and not pd.isna(number):
            points[float(row[x])] = float(number)
    name = value if isinstance(value, str) else "predicted"
    method = PREDICTED if name.startswith("predicted") else TRACED
    if isinstance(value, str) and f"{value}_method" in rows and len(rows):
        method = str(rows[f"{value}_method"].iloc[-1])
    return Curve(system, method, sorted(points.items()))


def require(*selections: pd.DataFrame | Curve) -> None:
    """Raise an error if a selection of records is empty.

    Raises:
        MissingRecordsError: It is.
    """
    for selection in selections:
        if not len(selection.points if isinstance(selection, Curve) else selection):
            raise MissingRecordsError("no such records")
