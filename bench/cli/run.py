"""``foldperf run``."""

import argparse
import sys

from bench.cli import options

SUMMARY = "run a sweep: each case in its own process, each outcome a record"
EXAMPLE = "foldperf run demo\n  foldperf run my-sweep.toml --retry crash timeout"


def configure(parser: argparse.ArgumentParser) -> None:
    """The sweep, and where its inputs and records are."""
    parser.add_argument("sweep", help="a name of 'foldperf list', or a TOML file")
    parser.add_argument(
        "--retry",
        nargs="+",
        default=[],
        metavar="STATUS",
        help="run again what was recorded with these statuses",
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
    """Runs what is missing; status 2 if a case crashed."""
    from bench import provenance
    from bench.errors import UsageError
    from bench.progress import Progress
    from bench.record import STATUSES
    from bench.run import Runner
    from bench.sweep import find_sweep, read_sweep
    from workloads.catalogue import catalogue

    if unknown := set(arguments.retry) - set(STATUSES):
        raise UsageError(f"--retry {sorted(unknown)[0]}: choose of {', '.join(STATUSES)}")
    found = catalogue()
    sweep = read_sweep(find_sweep(arguments.sweep), found, arguments.ranks)
    if arguments.dry_run:
        for case in sweep.cases:
            print(case.title)
        return 0
    runner = Runner(sweep, arguments.results / "runs" / sweep.name, arguments.store, found)
    if warning := provenance.commit_warning(runner.git):
        print(f"foldperf: {warning}", file=sys.stderr)
    summary = runner.run(Progress(len(sweep.cases), sweep.name), arguments.retry)
    counts = ", ".join(f"{count} {status}" for status, count in sorted(summary.statuses.items()))
    print(f"{counts}; {summary.ran} ran now; records in {summary.path}")
    return 2 if summary.statuses.get("crash") else 0
