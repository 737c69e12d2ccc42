"""The sweep behind asv's suite: which cases it has, and what they measure."""

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench import provenance
from bench.asv.benchmarks import Cell, Figures, cell, figures
from bench.errors import UsageError
from bench.progress import Progress
from bench.record import read_records
from bench.run import Runner
from bench.sweep import Sweep, find_sweep, read_sweep
from refsys.home import default_store
from workloads.workload import Catalogue

SWEEP = "FOLDPERF_ASV_SWEEP"
DIRTY = "FOLDPERF_ASV_DIRTY"
_DEFAULT = "quick"
_SOURCES = ("refsys", "workloads", "bench")
# Beside the cases' own limits: looking at the machine, starting processes.
_MARGIN_S = 600.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What the suite measures.

    Attributes:
        sweep: Its cases and how they run.
        catalogue: The workloads.
    """

    sweep: Sweep
    catalogue: Catalogue

    @property
    def timeout_s(self) -> float:
        """Longest time of the whole sweep."""
        return len(self.sweep.cases) * self.sweep.timeout_s + _MARGIN_S

    def cells(self) -> dict[str, list[Cell]]:
        """The parameters of every case, by workload."""
        found: dict[str, list[Cell]] = {}
        for case in self.sweep.cases:
            workload = self.catalogue[case.workload]
            labels = workload.labels(case.config)
            found.setdefault(case.workload, []).append(
                cell(workload, case.config, labels, case.ranks)
            )
        return found

    def measure(self, results: Path, store: Path) -> Figures:
        """Runs the cases that have no record yet; the figures of all.

        Args:
            results: The folder of results.
            store: The folder of prepared inputs.
        """
        folder = results / "runs" / self.sweep.name
        runner = Runner(self.sweep, folder, store, self.catalogue)
        done = runner.run(Progress(len(self.sweep.cases), self.sweep.name, sys.stderr))
        keys = {runner.key(case) for case in self.sweep.cases}
        records = [record for record in read_records([done.path]) if record["key"] in keys]
        return figures(records, self.catalogue)


def make_plan(catalogue: Catalogue, root: Path = provenance.ROOT) -> Plan:
    """Reads the sweep that the environment names; a path may be relative to the project.

    Raises:
        UsageError: there is none, something in it is wrong, or the source is of no commit.
        WorkloadError: inputs of a case are not there.
    """
    _check_committed(root)
    name = os.environ.get(SWEEP) or _DEFAULT
    beside = root / name
    sweep = read_sweep(beside if beside.is_file() else find_sweep(name), catalogue)
    for case in sweep.cases:
        catalogue[case.workload].inputs(case.config, default_store())
    return Plan(sweep, catalogue)


def axes_of(cells: Iterable[Cell]) -> list[list[str | int | float]]:
    """The values of each parameter, each once, in order."""
    return [sorted(set(values)) for values in zip(*cells, strict=True)]


def _check_committed(root: Path) -> None:
    """What asv measures it files under a commit, whatever the tree holds."""
    if os.environ.get(DIRTY):
        return
    command = ["git", "-C", str(root), "status", "--porcelain", "--", *_SOURCES]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if changed := done.stdout.splitlines():
        raise UsageError(
            f"{changed[0][3:]} differs from the commit that asv would file it under: "
            f"commit it, or set {DIRTY}=1 to try the suite"
        )
