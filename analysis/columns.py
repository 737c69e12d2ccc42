"""Columns of the DataFrame of records: names with units, and types."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pandas as pd

# Suffix of a column by the unit of its numbers; a number without a unit has none.
_SUFFIXES = {
    "1": "",
    "s": "s",
    "B": "bytes",
    "J": "j",
    "W": "w",
    "%": "pct",
    "FLOP": "flops",
    "FLOP/s": "flops_per_s",
    "tokens": "tokens",
}
_INT64 = range(-(2**63), 2**63)


def column_name(metric: str, unit: str) -> str:
    """Return the column of a metric: its name, ending with its unit.

    Words that the end of the name and the unit share are not repeated: ``achieved_flops`` in FLOP/s
    is ``achieved_flops_per_s``.
    """
    suffix = _SUFFIXES.get(unit)
    if suffix is None:
        suffix = "".join(c if c.isalnum() else "_" for c in unit).strip("_")
    name, words = metric.split("_"), suffix.split("_")
    if not suffix or name[-len(words) :] == words:
        return metric
    shared = next((k for k in range(len(words), 0, -1) if name[-k:] == words[:k]), 0)
    return "_".join([*name, *words[shared:]])


def numbers(values: Sequence[Any]) -> Any:
    """Return a column of numbers: Int64 if all are integers, else float64; None is missing.

    A value that is no number is missing. Integers beyond 64 bits make a column float64.
    """
    clean = [v if isinstance(v, int | float) and not isinstance(v, bool) else None for v in values]
    present = [value for value in clean if value is not None]
    if present and all(isinstance(value, int) and value in _INT64 for value in present):
        return pd.array(clean, dtype="Int64")
    return pd.array([float("nan") if v is None else float(v) for v in clean], dtype="float64")


def categories(values: Sequence[Any]) -> Any:
    """Return a categorical column of text, categories ascending; None is missing."""
    words = [None if value is None else str(value) for value in values]
    ordered = sorted({word for word in words if word is not None})
    codes = {word: code for code, word in enumerate(ordered)} | {None: -1}
    listed = pd.Index(ordered, dtype="str")
    return pd.Categorical.from_codes([codes[word] for word in words], categories=listed)


def texts(values: Sequence[Any]) -> Any:
    """Return a column of text; None is missing."""
    return pd.array([None if v is None else str(v) for v in values], dtype="string")


def booleans(values: Sequence[Any]) -> Any:
    """Return a column of truth values; None is missing."""
    return pd.array(list(values), dtype="boolean")


def moments(values: Sequence[str | None]) -> Any:
    """Return a column of moments in UTC, with microseconds, from ISO 8601 text."""
    read = [None if value is None else datetime.fromisoformat(value) for value in values]
    return pd.Series(pd.to_datetime(read, utc=True)).dt.as_unit("us").array


def of_any_type(values: Sequence[Any]) -> Any:
    """Return a column of the type of its values: numbers, truth values, else categories."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return booleans(values)
    if kinds and kinds <= {int, float}:
        return numbers(values)
    return categories(values)
