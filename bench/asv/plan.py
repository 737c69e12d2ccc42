"""Sweep behind asv's suite: its cases and their figures."""

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.asv.benchmarks import Cell, Figures, cell, figures
from bench.errors import UsageError
from bench.progress import Progress
from bench.records.git import find_repository
from bench.records.reading import read_records
from bench.records.working_tree import ROOT, require_commit
from bench.run.runner import Runner
from bench.run.sweep import Sweep, find_sweep, read_sweep
from bench.run.time_limits import LARGEST_FACTOR
from refsys.home import default_store
from workloads.workload import Catalogue

SWEEP = "FOLDPERF_ASV_SWEEP"
DIRTY = "FOLDPERF_ASV_DIRTY"
_DEFAULT = "quick"
# Set by asv where it builds an environment for a commit.
_BUILT_COMMIT = "ASV_COMMIT"
# Beside the cases' own limits: looking at the machine, starting processes.
_MARGIN_S = 600.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Cases of the suite.

    Attributes:
        sweep: Cases and the way in which they run.
        catalogue: Workloads.
    """

    sweep: Sweep
    catalogue: Catalogue

    @property
    def timeout_s(self) -> float:
        """Return the longest time of the sweep, on the slowest machine that limits allow for."""
        return len(self.sweep.cases) * self.sweep.timeout_s * LARGEST_FACTOR + _MARGIN_S

    def cells(self) -> dict[str, list[Cell]]:
        """Return the parameters of every case, by workload."""
        cells: dict[str, list[Cell]] = {}
        for case in self.sweep.cases:
            workload = self.catalogue[case.workload]
            labels = workload.labels(case.config)
            cells.setdefault(case.workload, []).append(
                cell(workload, case.axes, labels, case.ranks)
            )
        return cells

    def measure(self, results: Path, store: Path) -> Figures:
        """Run the cases that have no record yet, and return the figures of all.

        Args:
            results: Folder of results.
            store: Folder of prepared inputs.
        """
        folder = results / "runs" / self.sweep.name
        runner = Runner(self.sweep, folder, store, self.catalogue)
        progress = Progress(len(self.sweep.cases), self.sweep.name, sys.stderr)
        done = runner.run(progress, ["foldperf", "run", self.sweep.name])
        keys = {runner.key(case) for case in self.sweep.cases}
        records = [record for record in read_records([done.path]) if record.key in keys]
        return figures(records, self.catalogue)


def make_plan(catalogue: Catalogue, root: Path = ROOT) -> Plan:
    """Read the sweep that the environment names; a path may be relative to the project.

    Raises:
        UsageError: The sweep is missing or wrong, or the source differs from the commit.
        GitError: Git refuses to read the repository.
        WorkloadError: Inputs of a case are missing.
    """
    _check_committed(root)
    name = os.environ.get(SWEEP) or _DEFAULT
    beside = root / name
    sweep = read_sweep(beside if beside.is_file() else find_sweep(name), catalogue)
    for case in sweep.cases:
        catalogue[case.workload].inputs(case.config, default_store())
    return Plan(sweep, catalogue)


def axes_of(cells: Iterable[Cell]) -> list[list[str | int | float]]:
    """Return the distinct values of each parameter, in order."""
    return [sorted(set(values)) for values in zip(*cells, strict=True)]


def _check_committed(root: Path) -> None:
    """Check that the source is that of the commit under which asv files its figures."""
    # A copy without a repository has no commits, and asv files nothing.
    if os.environ.get(DIRTY) or find_repository(root) is None:
        return
    try:
        require_commit(os.environ.get(_BUILT_COMMIT), root)
    except UsageError as error:
        raise UsageError(
            f"{error}, under which asv would file its figures: commit it or check that commit out, "
            f"or set {DIRTY}=1 to try the suite"
        ) from None
