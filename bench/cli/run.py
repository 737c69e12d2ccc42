"""``foldperf run``."""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import options

if TYPE_CHECKING:
    from bench.run.runner import Runner
    from bench.run.schedule import Budget
    from bench.run.sweep import Sweep
    from workloads.workload import Catalogue

SUMMARY = "run a sweep: a process and a record for each case"
EXAMPLE = (
    "foldperf run demo\n"
    "  foldperf run standard --budget 15\n"
    "  foldperf run my-sweep.toml --retry crash timeout"
)
_NO_STORE = Path(os.devnull)


# Statuses of cases that ought to have been measured. Out of memory can be what a sweep is to show.
_INCOMPLETE = {"crash", "timeout"}
# Options that the command for what is missing repeats.
_REPEATED = ("ranks", "timeout", "store", "results")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the sweep, and the folders of its inputs and records."""
    parser.add_argument("sweep", help="name of a sweep (see 'foldperf list'), or a TOML file")
    parser.add_argument(
        "--retry",
        nargs="+",
        default=[],
        metavar="STATUS",
        help="rerun cases recorded with these statuses",
    )
    parser.add_argument(
        "--budget",
        type=options.minutes,
        metavar="MINUTES",
        help="run the most informative cases first and start none that cannot end in this time; "
        "a run without it does the others (default: all cases, in the sweep's order)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the cases and an estimate of their time"
    )
    parser.add_argument(
        "--ranks",
        type=options.at_least(1),
        metavar="N",
        help="run every case on N processes, data parallel (default: the sweep's)",
    )
    parser.add_argument(
        "--timeout",
        type=options.seconds,
        metavar="SECONDS",
        help="time limit of a case (default: the sweep's, longer on a machine slower than the "
        "reference)",
    )
    options.add_store(parser)
    options.add_results(parser)
    parser.set_defaults(defaults={name: parser.get_default(name) for name in _REPEATED})


def run(arguments: argparse.Namespace) -> int:
    """Run the cases without a record; status 2 if one crashed or took too long."""
    from bench.errors import UsageError
    from bench.progress import Progress
    from bench.records import provenance
    from bench.records.record import STATUSES
    from bench.run.schedule import Budget
    from bench.run.sweep import find_sweep, read_sweep
    from workloads.catalogue import catalogue

    if unknown := set(arguments.retry) - set(STATUSES):
        raise UsageError(f"--retry {sorted(unknown)[0]}: choose one of {', '.join(STATUSES)}")
    budget = None if arguments.budget is None else Budget(arguments.budget * 60)
    workloads = catalogue()
    sweep = read_sweep(find_sweep(arguments.sweep), workloads, arguments.ranks)
    if arguments.timeout is not None:
        sweep = replace(sweep, timeout_s=arguments.timeout, scale_timeout=False)
    if arguments.dry_run:
        _print_plan(sweep, workloads, arguments.results, budget)
        return 0
    runner = _runner(arguments, sweep, workloads)
    if warning := provenance.commit_warning(runner.git):
        print(f"foldperf: {warning}", file=sys.stderr)
    progress = Progress(len(sweep.cases), sweep.name)
    summary = runner.run(progress, _command(arguments), arguments.retry, budget)
    counts = ", ".join(f"{count} {status}" for status, count in sorted(summary.statuses.items()))
    print(f"{counts}; {summary.ran} ran now; records in {summary.path}")
    if summary.unmeasured:
        print(summary.unmeasured)
    return 2 if _INCOMPLETE & summary.statuses.keys() else 0


def _print_plan(
    sweep: "Sweep", workloads: "Catalogue", results: Path, budget: "Budget | None"
) -> None:
    """Print the cases in the order in which they would run, and an estimate of their time.

    Neither inputs nor a device are needed. Cases that have a record are included.
    """
    from bench.errors import UsageError
    from bench.progress import span
    from bench.records import provenance
    from bench.run.durations import known_durations
    from bench.run.placement import Placement
    from bench.run.schedule import Schedule

    host = provenance.host()
    try:
        placement = Placement(sweep.cases, workloads, host.cores)
    except UsageError as error:
        for case in sweep.cases:
            print(case.title)
        print(
            f"foldperf: {len(sweep.cases)} cases, none of which runs here: {error}", file=sys.stderr
        )
        return
    device = placement.descriptions(sweep.cases[0])[0]
    durations = known_durations(results / "runs", workloads, host, device)
    schedule = Schedule(sweep.cases, workloads, durations, budget)
    for index, case in enumerate(sweep.cases):
        if reason := placement.unsupported_reason(case):
            schedule.leave_out(index)
            print(f"unsupported here: {case.title}: {reason}", file=sys.stderr)
    line = schedule.description(span)
    for index in range(len(sweep.cases)) if budget is None else schedule.plan():
        print(sweep.cases[index].title)
    print(line or "no case runs here", file=sys.stderr)


def _command(arguments: argparse.Namespace) -> list[str]:
    """Return the words that run this sweep once more, in the same folder."""
    words = [*options.program(), "run", arguments.sweep]
    for name, default in arguments.defaults.items():
        if (value := getattr(arguments, name)) != default:
            words += [f"--{name}", str(value)]
    return words


def _runner(arguments: argparse.Namespace, sweep: "Sweep", workloads: "Catalogue") -> "Runner":
    """Return the runner of a sweep; it needs a store only if a case reads prepared inputs."""
    from bench.run.runner import Runner
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
