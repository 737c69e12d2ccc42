"""``foldperf run``."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import options

if TYPE_CHECKING:
    from bench.run import Runner
    from bench.sweep import Sweep
    from workloads.workload import Catalogue

SUMMARY = "run a sweep: each case in its own process, each outcome a record"
EXAMPLE = "foldperf run demo\n  foldperf run my-sweep.toml --retry crash timeout"
_NO_STORE = Path(os.devnull)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the sweep, and the folders of its inputs and records."""
    parser.add_argument("sweep", help="a name of 'foldperf list', or a TOML file")
    parser.add_argument(
        "--retry",
        nargs="+",
        default=[],
        metavar="STATUS",
        help="run again the cases that were recorded with these statuses",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the cases and stop")
    parser.add_argument(
        "--ranks",
        type=options.at_least(1),
        metavar="N",
        help="run every case on N processes, data parallel (default: as the sweep says)",
    )
    options.add_store(parser)
    options.add_results(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the cases without a record; status 2 if a case crashed."""
    from bench.errors import UsageError
    from bench.progress import Progress
    from bench.record import STATUSES
    from bench.sweep import find_sweep, read_sweep
    from workloads.catalogue import catalogue

    if unknown := set(arguments.retry) - set(STATUSES):
        raise UsageError(f"--retry {sorted(unknown)[0]}: choose of {', '.join(STATUSES)}")
    workloads = catalogue()
    sweep = read_sweep(find_sweep(arguments.sweep), workloads, arguments.ranks)
    if arguments.dry_run:
        for case in sweep.cases:
            print(case.title)
        return 0
    runner = _runner(arguments, sweep, workloads)
    summary = runner.run(Progress(len(sweep.cases), sweep.name), arguments.retry)
    counts = ", ".join(f"{count} {status}" for status, count in sorted(summary.statuses.items()))
    print(f"{counts}; {summary.ran} ran now; records in {summary.path}")
    return 2 if summary.statuses.get("crash") else 0


def _runner(arguments: argparse.Namespace, sweep: "Sweep", workloads: "Catalogue") -> "Runner":
    """Return the runner of a sweep; it needs a store only if a case reads prepared inputs."""
    from bench.run import Runner
    from refsys.errors import HomeError
    from workloads.errors import WorkloadError

    folder = arguments.results / "runs" / sweep.name
    try:
        return Runner(sweep, folder, options.store(arguments), workloads)
    except HomeError as error:
        try:
            return Runner(sweep, folder, _NO_STORE, workloads)
        except WorkloadError:
            raise error from None
