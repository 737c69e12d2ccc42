"""The fingerprint of a case: its exact costs by phase, module path and operator."""

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
        parameters: By component.
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
        """As a baseline holds it: tables as lines of text, so that a diff shows what moved."""
        return {
            "parameters": self.parameters,
            "peaks": self.peaks,
            "costs": _lines(self.costs),
            "peak": _lines(self.peak),
            "unpriced": list(self.unpriced),
        }

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> "Fingerprint":
        """The inverse of `as_json`."""
        return cls(
            {str(name): int(count) for name, count in table["parameters"].items()},
            {str(name): int(nbytes) for name, nbytes in table["peaks"].items()},
            _table(table["costs"], figures=3),
            _table(table["peak"], figures=1),
            tuple(map(str, table["unpriced"])),
        )


def _lines(table: dict[Key, tuple[int, ...]]) -> list[str]:
    """``phase module operator figures``; an empty name is a dash."""
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
    """Simulates a case in this process."""
    workload = catalogue()[case.workload]
    facts = workload.facts(case.config)
    return _of_trace(predicted_costs(workload, case.config), dict(facts.components))


def _of_trace(found: Trace, parameters: dict[str, int]) -> Fingerprint:
    return Fingerprint(
        parameters,
        {phase: peak.nbytes for phase, peak in found.phase_peaks.items()},
        {tuple(key): (c.calls, c.flops, c.nbytes) for key, c in found.costs.items()},
        {key: (nbytes,) for key, nbytes in found.peak.by_origin.items()},
        found.unpriced,
    )


def fingerprints(cases: Iterable[Case], jobs: int) -> dict[str, Fingerprint]:
    """Fingerprints by case title, in `jobs` processes."""
    # The last are the largest, and start first, so that no process ends alone with one of them.
    ordered = list(cases)[::-1]
    if jobs == 1:
        found = map(fingerprint, ordered)
        return {case.title: each for case, each in zip(ordered, found, strict=True)}
    with ProcessPool(jobs) as pool:
        done = list(pool.map(fingerprint, ordered))
    return {case.title: each for case, each in zip(ordered, done, strict=True)}
