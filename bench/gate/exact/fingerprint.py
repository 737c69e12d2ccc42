"""Fingerprint of a case: its exact costs by phase, module path and operator."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench.run.sweep import Case
from refsys.costs.trace import Trace
from refsys.processes import ProcessPool
from workloads.catalogue import catalogue
from workloads.predicted_costs import predicted_costs

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Exact figures of one case.

    Attributes:
        parameters: Number of parameters by component.
        peaks: Most live bytes in each phase.
        costs: (calls, FLOPs, bytes) by (phase, module path, operator).
        peak: Bytes alive at the peak by (state, module path, operator).
        unpriced: Operators whose FLOPs are unknown.
    """

    parameters: dict[str, int]
    peaks: dict[str, int]
    costs: dict[Key, tuple[int, ...]]
    peak: dict[Key, tuple[int, ...]]
    unpriced: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the form of a baseline file: tables as lines of text, for readable diffs."""
        return {
            "parameters": self.parameters,
            "peaks": self.peaks,
            "costs": _lines(self.costs),
            "peak": _lines(self.peak),
            "unpriced": list(self.unpriced),
        }

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> "Fingerprint":
        """Return the fingerprint in a baseline file, the inverse of `as_json`."""
        return cls(
            {str(name): int(count) for name, count in table["parameters"].items()},
            {str(name): int(nbytes) for name, nbytes in table["peaks"].items()},
            _table(table["costs"], figures=3),
            _table(table["peak"], figures=1),
            tuple(map(str, table["unpriced"])),
        )


def _lines(table: dict[Key, tuple[int, ...]]) -> list[str]:
    """Return a table as lines ``phase module operator figures``; an empty name is a dash."""
    return [
        " ".join([*(name or "-" for name in key), *map(str, value)])
        for key, value in sorted(table.items())
    ]


def _table(lines: list[str], figures: int) -> dict[Key, tuple[int, ...]]:
    rows = [line.split() for line in lines]
    if any(len(row) != 3 + figures for row in rows):
        raise ValueError(f"a line has not {3 + figures} words")
    return {
        tuple("" if name == "-" else name for name in row[:3]): tuple(map(int, row[3:]))
        for row in rows
    }


def fingerprint(case: Case) -> Fingerprint:
    """Return the fingerprint of a case, simulated in this process."""
    workload = catalogue()[case.workload]
    parameters = dict(workload.parameters(case.config))
    return _of_trace(predicted_costs(workload, case.config), parameters)


def _of_trace(trace: Trace, parameters: dict[str, int]) -> Fingerprint:
    return Fingerprint(
        parameters,
        {phase: peak.nbytes for phase, peak in trace.phase_peaks.items()},
        _of_all_dtypes(trace),
        {key: (nbytes,) for key, nbytes in trace.peak.by_origin.items()},
        trace.unpriced,
    )


def _of_all_dtypes(trace: Trace) -> dict[Key, tuple[int, ...]]:
    """Return (calls, FLOPs, bytes) by phase, module path and operator."""
    costs: dict[Key, tuple[int, ...]] = {}
    for origin, cost in trace.costs.items():
        key = origin.phase, origin.module, origin.operator
        before = costs.get(key, (0, 0, 0))
        costs[key] = before[0] + cost.calls, before[1] + cost.flops, before[2] + cost.nbytes
    return costs


def fingerprints(cases: Iterable[Case], jobs: int) -> dict[str, Fingerprint]:
    """Return fingerprints by case title, computed in `jobs` processes."""
    # The last cases are the largest; started first, none of them runs alone at the end.
    ordered = list(cases)[::-1]
    if jobs == 1:
        results = list(map(fingerprint, ordered))
    else:
        with ProcessPool(jobs) as pool:
            results = list(pool.map(fingerprint, ordered))
    return {case.title: result for case, result in zip(ordered, results, strict=True)}
