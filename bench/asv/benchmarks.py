"""Figures that asv tracks of a record, each such that less is better: names, units, parameters.

To asv a smaller value is always an improvement. A fraction for which more is better is therefore
tracked as one minus the fraction, and a rate as its inverse; metrics without a direction are left
out. A benchmark is one metric of one workload; its parameters identify the case.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from bench.records.metrics import METRICS, MetricKind
from bench.records.record import Record
from workloads.errors import WorkloadError

# asv's own process reads this file and does not need torch.
if TYPE_CHECKING:
    from workloads.workload import Axes, Catalogue, Workload

# Part of every benchmark: raising it cuts the history, as for a figure that means something else.
VERSION = "1"
# Module of the suite, and prefix of its function names, by which asv finds them.
MODULE = "workload"
PREFIX = "track_"
PARAMETERS = ("case", "tokens", "ranks")

# Phases differ between workloads, and their total is step_time_s.
_PARTS_ALONE = frozenset({"phase_time_s"})
# Parts that every workload has: a state absent at the peak of a step counts as 0, not as unknown.
_STATES = (
    *("parameters", "optimizer", "gradients", "inputs"),
    *("activations", "recomputed", "temporaries"),
)
_PARTS = {"peak_tracked_bytes": _STATES}
# Units as asv displays them.
_UNITS = {"s": "seconds", "B": "bytes", "1": "unit"}

Cell = tuple[str, int | float, int]
Figures = dict[str, dict[Cell, float]]


@dataclass(frozen=True, slots=True)
class Tracked:
    """Figure that asv follows.

    Attributes:
        name: Name in asv, after the prefix.
        metric: Metric of the record that it is computed from.
        unit: Unit in asv's spelling.
        meaning: Description in one line.
        form: The metric itself, one minus the metric, or its inverse.
        whole: Metric that a part belongs to.
    """

    name: str
    metric: str
    unit: str
    meaning: str
    form: Literal["itself", "lack", "inverse"] = "itself"
    whole: str = ""

    def figure(self, record: Record) -> float | None:
        """Return the figure of a record, finite and not negative; None if it has none."""
        value = record.value(self.metric)
        if value is None and self.whole and record.value(self.whole) is not None:
            value = 0.0
        if value is None or not math.isfinite(value):
            return None
        if self.form == "lack":
            value = 1 - value
        elif self.form == "inverse":
            value = 1 / value if value > 0 else math.inf
        return value if 0 <= value < math.inf else None


def _track(name: str, kind: MetricKind) -> Iterator[Tracked]:
    if kind.better == "neither" or name in _PARTS_ALONE:
        return
    if kind.better == "lower":
        unit = _UNITS.get(kind.unit, kind.unit)
        yield Tracked(name, name, unit, kind.meaning)
        for part in _PARTS.get(name, ()):
            meaning = f"{kind.meaning}: {part}"
            yield Tracked(f"{name}_{part}", f"{name}.{part}", unit, meaning, whole=name)
    elif kind.unit == "1":
        yield Tracked(f"one_minus_{name}", name, "unit", f"1 less {kind.meaning}", "lack")
    else:
        above, _, below = kind.unit.partition("/")
        unit = f"{below}/{above}" if below else f"1/{above}"
        yield Tracked(f"inverse_{name}", name, unit, f"1 over {kind.meaning}", "inverse")


TRACKED = {
    tracked.name: tracked for name, kind in METRICS.items() for tracked in _track(name, kind)
}


def group(workload: str) -> str:
    """Return the workload's name without dots and dashes, at which asv splits names."""
    return re.sub(r"\W", "_", workload)


def benchmark(workload: str, tracked: Tracked) -> str:
    """Return the full name of a benchmark."""
    return f"{MODULE}.{group(workload)}.{PREFIX}{tracked.name}"


def tracked_by(name: str) -> Tracked | None:
    """Return the figure that a benchmark of that full name tracks; None if it is not foldperf's."""
    module, _, names = name.partition(".")
    function = names.rpartition(".")[2]
    if module != MODULE or not function.startswith(PREFIX):
        return None
    return TRACKED.get(function.removeprefix(PREFIX))


def description(workload: str, tracked: Tracked) -> str:
    """Return the text that asv shows in place of source code."""
    return f"{workload}: {tracked.metric}\n{tracked.meaning}"


def cell(workload: "Workload | None", axes: "Axes", labels: Mapping[str, Any], ranks: int) -> Cell:
    """Return the parameters of a case: its distinguishing axes, tokens and ranks.

    Args:
        workload: Workload, for axes that follow from others; without it every axis is named.
        axes: Axes of the case. An axis that the record lacks is at its default.
        labels: Labels, for the size of a workload without an axis ``tokens``.
        ranks: Number of processes that worked on it.
    """
    named_axes = _named_axes(workload, axes) if workload else axes
    words = [f"{name}={value}" for name, value in named_axes.items() if name != "tokens"]
    tokens = float(axes.get("tokens", labels.get("tokens", 0)))
    size = int(tokens) if tokens.is_integer() else tokens
    return " ".join(words) or "default", size, ranks


def _named_axes(workload: "Workload", axes: "Axes") -> "Axes":
    """Return the axes that determine the others, and those that a title shows."""
    try:
        whole = workload.configure(axes)
        named = workload.values(whole)
        for axis in workload.axes:
            less = {name: value for name, value in named.items() if name != axis.name}
            if not axis.titled and axis.name != "tokens" and workload.configure(less) == whole:
                named = less
    except WorkloadError:
        return axes  # of a version that had other axes
    return named


def figures(records: Iterable[Record], catalogue: "Catalogue") -> Figures:
    """Return every tracked figure by benchmark and case: the median over records of the case.

    Records of cases that were not measured give none.
    """
    samples: dict[str, dict[Cell, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.status != "ok":
            continue
        case = record.workload
        workload = catalogue.workloads.get(case.name)
        parameters = cell(workload, dict(case.config), case.labels, case.ranks)
        for tracked in TRACKED.values():
            if (value := tracked.figure(record)) is not None:
                samples[benchmark(case.name, tracked)][parameters].append(value)
    return {
        name: {parameters: median(values) for parameters, values in cells.items()}
        for name, cells in samples.items()
    }
