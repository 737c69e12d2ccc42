"""DataFrame of records: one row for each record, typed columns, units in column names.

All tables, series, fits and figures are made from it. Missing values are NA (text, integers, truth
values) or NaN (float64).

========================  ==================  ==================================================
columns                   type                content
========================  ==================  ==================================================
run_id, cell_id           string              identity of the execution, and of the case
sweep                     category            name of the sweep
replicate                 Int64               number among the repetitions of the case
workload, series,         category            workload, and its labels for views; a label that a
variant                                       record lacks is its workload, and empty
preset, backend,          category            axes that most workloads have
precision, entry
tokens, ranks,            Int64               problem size; processes; ranks that divide an example
context_ranks                                 (1 if the workload has no such axis)
status, reason            category, string    status of the case, and the reason of a failure
method                    category            ``measured``, ``traced`` or ``predicted``: the first
                                              of them that a number of the record has
machine, device,          category            label of the machine; name, vendor and kind of the
vendor, device_kind                           devices
device_memory_bytes,      Int64, string       memory and identity of the first device
device_uuid_hash
commit, dirty             category, boolean   hash of the source's commit; uncommitted changes
started_at                datetime, UTC       start of the case
duration_s                float64             its duration
host_*, software_*        by their values     processor, cores, memory; versions of packages
every other axis          by its values       by its name; ``config_<name>`` if that is taken
label_*                   by its values       other labels: resource, rate, synthetic
costs_*                   Int64               static costs: parameters, FLOPs, minimum_bytes
protocol_*                by its values       steps, seed, limits, harness
outcome_*                 float64             results that are no measurements, such as the loss
<metric>_<unit>           Int64 or float64    every metric that a record has, by its name;
                                              ``metric_<name>`` if that is taken
<...>_low, <...>_high     as the value        its interval, if a record has one
<...>_method              category            ``measured``, ``traced`` or ``predicted``
<...>_method_text         category            method in the record's words
<...>_quality             category            measured, counted, degraded, missing
<...>_n                   Int64               number of samples
<...>_reason              category            reason for having no value, if a record lacks it
<...>_flags               category            remarks joined by semicolons, if there are any
record                    object              the record as JSON; exports leave it out
========================  ==================  ==================================================

A metric's name ends with its unit already (``step_time_s``, ``peak_allocated_bytes``), so that the
column has the metric's name; only ``achieved_flops`` is ``achieved_flops_per_s``. What a record
nests (parts of metrics, samples, values of ranks, breakdowns) is in `analysis.nested`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.columns import (
    booleans,
    categories,
    column_name,
    moments,
    numbers,
    of_any_type,
    texts,
)
from analysis.methods import method_of, method_of_record
from bench.records.record import Record, RecordJson

# Identity of a series of records.
IDENTITY = ("workload", "series", "variant", "device", "ranks")
_TEXT_AXES = ("preset", "backend", "precision", "entry")
_COSTS = (
    *("parameters", "forward_flops", "step_flops", "minimum_bytes"),
    *("exponentials", "instructions"),
)
_HOST = ("os", "cpu", "cores", "memory_bytes", "hostname_hash", "container")

Columns = dict[str, Any]


def frame(records: Iterable[Record | RecordJson]) -> pd.DataFrame:
    """Return the DataFrame of records, in their order; its columns are listed above."""
    tables = [record.as_dict() if isinstance(record, Record) else record for record in records]
    identity, nested = _identity(tables), _nested(tables)
    column_of_records = {"record": pd.Series(tables, dtype=object)}
    metrics = _metrics(tables, taken=identity | nested | column_of_records)
    axes = _axes(tables, taken=identity | nested | column_of_records | metrics)
    return pd.DataFrame(identity | axes | nested | metrics | column_of_records)


def _identity(tables: Sequence[RecordJson]) -> Columns:
    """Return the columns that every frame has."""
    workloads = [table["workload"] for table in tables]
    labels = [workload["labels"] for workload in workloads]
    configs = [workload["config"] for workload in workloads]
    devices = [table["devices"] for table in tables]
    firsts = [listed[0] for listed in devices]
    return {
        "run_id": texts([table["run_id"] for table in tables]),
        "cell_id": texts([table["cell_id"] for table in tables]),
        "sweep": categories([table["sweep"] for table in tables]),
        "replicate": numbers([table["replicate"] for table in tables]),
        "workload": categories([workload["name"] for workload in workloads]),
        "series": categories([w["labels"].get("series", w["name"]) for w in workloads]),
        "variant": categories([label.get("variant", "") for label in labels]),
        **{name: categories([c.get(name) for c in configs]) for name in _TEXT_AXES},
        "tokens": numbers([label.get("tokens") for label in labels]),
        "ranks": numbers([workload["ranks"] for workload in workloads]),
        "context_ranks": numbers([config.get("context_ranks", 1) for config in configs]),
        "status": categories([table["status"] for table in tables]),
        "reason": texts([table["reason"] for table in tables]),
        "method": categories([method_of_record(table) for table in tables]),
        "machine": categories([_machine(table) for table in tables]),
        "device": categories([", ".join(sorted({d["name"] for d in ds})) for ds in devices]),
        "vendor": categories([device["vendor"] for device in firsts]),
        "device_kind": categories([device["kind"] for device in firsts]),
        "device_uuid_hash": texts([device["uuid_hash"] for device in firsts]),
        "device_memory_bytes": numbers([device["memory_bytes"] for device in firsts]),
        "commit": categories([table["git"]["sha"] for table in tables]),
        "dirty": booleans([table["git"]["dirty"] for table in tables]),
        "started_at": moments([table["started_at"] for table in tables]),
        "duration_s": numbers([float(table["duration_s"]) for table in tables]),
    }


def _axes(tables: Sequence[RecordJson], taken: Columns) -> Columns:
    """Return a column for each axis that `taken` has not; the labels say the tokens already."""
    configs = [table["workload"]["config"] for table in tables]
    given = {*_TEXT_AXES, "tokens", "context_ranks"}
    names = sorted({name for config in configs for name in config} - given)
    return {
        f"config_{name}" if name in taken else name: of_any_type([c.get(name) for c in configs])
        for name in names
    }


def _nested(tables: Sequence[RecordJson]) -> Columns:
    """Return the columns of the objects of a record that hold single values."""
    columns: Columns = {
        f"costs_{name}": numbers([(table["facts"] or {}).get(name) for table in tables])
        for name in _COSTS
    }
    labels = [table["workload"]["labels"] for table in tables]
    views = {"tokens", "series", "variant"}
    columns |= _by_name("label", [{n: v for n, v in ls.items() if n not in views} for ls in labels])
    columns |= _by_name("host", [{n: t["host"][n] for n in _HOST} for t in tables])
    for part in ("software", "protocol", "outcome"):
        columns |= _by_name(part, [table[part] for table in tables])
    return columns


def _by_name(prefix: str, objects: Sequence[Mapping[str, Any]]) -> Columns:
    # The same records in another order, or with other orders of keys, have the same columns.
    names = sorted({name for values in objects for name in values})
    return {f"{prefix}_{n}": of_any_type([values.get(n) for values in objects]) for n in names}


def _metrics(tables: Sequence[RecordJson], taken: Columns) -> Columns:
    """Return the columns of each metric, without its parts; ``metric_<name>`` if one is taken."""
    columns: Columns = {}
    kinds = sorted(
        {
            (name, metric["unit"])
            for table in tables
            for name, metric in table["metrics"].items()
            if "." not in name
        }
    )
    for name, unit in kinds:
        entries = [_entry(table, name, unit) for table in tables]
        of_metric = _metric(name, column_name(name, unit), entries)
        if of_metric.keys() & (taken.keys() | columns.keys()):
            of_metric = {f"metric_{column}": values for column, values in of_metric.items()}
        columns |= of_metric
    return columns


def _entry(table: RecordJson, name: str, unit: str) -> dict[str, Any]:
    """Return a metric of a record in that unit; empty if it has none."""
    metric: dict[str, Any] = table["metrics"].get(name, {})
    return metric if metric.get("unit") == unit else {}


def _metric(name: str, column: str, entries: Sequence[Mapping[str, Any]]) -> Columns:
    words = [entry.get("method") for entry in entries]
    columns: Columns = {column: numbers([entry.get("value") for entry in entries])}
    if any(entry.get("ci") for entry in entries):
        for k, end in enumerate(("low", "high")):
            bounds = [entry["ci"][k] if entry.get("ci") else None for entry in entries]
            columns[f"{column}_{end}"] = numbers(bounds)
    columns[f"{column}_method"] = categories(
        [
            None if entry.get("value") is None else method_of(name, entry["method"])
            for entry in entries
        ]
    )
    columns[f"{column}_method_text"] = categories(words)
    columns[f"{column}_quality"] = categories([entry.get("quality") for entry in entries])
    columns[f"{column}_n"] = numbers([entry.get("n") for entry in entries])
    if any(entry.get("reason") for entry in entries):
        columns[f"{column}_reason"] = categories([entry.get("reason") for entry in entries])
    if any(entry.get("flags") for entry in entries):
        flags = ["; ".join(entry.get("flags", ())) or None for entry in entries]
        columns[f"{column}_flags"] = categories(flags)
    return columns


def _machine(table: RecordJson) -> str:
    """Return a label of the machine: its devices, or its processor with the number of cores."""
    counts = Counter(device["name"] for device in table["devices"])
    names = [f"{n} × {name}" if n > 1 else name for name, n in sorted(counts.items())]
    if table["devices"][0]["kind"] == "cpu":
        names = [*counts]
        names.append(f"{table['host']['cores']} cores")
    return ", ".join(names)
