"""``foldperf gate``."""

import argparse
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import faults, options

if TYPE_CHECKING:
    from bench.gate.outcome import Outcome
    from bench.run.sweep import Case

SUMMARY = "compare a change with its baseline: exact costs, or times"
EXAMPLE = (
    "foldperf gate\n"
    "  foldperf gate --bless --reason 'fused the transition'\n"
    "  foldperf gate --timing --against main"
)
_EXACT_ALONE = ("baseline", "bless", "reason")
_TIMING_ALONE = ("against", "pairs", "threshold", "seed")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of both gates and of their reports."""
    parser.add_argument("--cases", metavar="SWEEP", help="cases to cover (default: the gate's own)")
    parser.add_argument("--only", metavar="TEXT", help="cover only cases whose title contains TEXT")
    exact = parser.add_argument_group("exact costs")
    exact.add_argument(
        "--baseline", type=Path, metavar="FILE", help="baseline file (default: the committed one)"
    )
    exact.add_argument(
        "--jobs",
        type=options.at_least(1),
        metavar="N",
        help="processes (default: cores, 2 at most)",
    )
    exact.add_argument(
        "--bless", action="store_true", help="store the costs of the candidate as the baseline"
    )
    exact.add_argument(
        "--reason", metavar="TEXT", help="reason of the change, stored in the baseline"
    )
    timing = parser.add_argument_group("times")
    timing.add_argument(
        "--timing", action="store_true", help="time the source beside a baseline's source"
    )
    timing.add_argument(
        "--against",
        metavar="REF",
        help="a commit, or the folder of a source tree (default: HEAD if there are uncommitted "
        "changes, else the commit where the branch began, else the previous commit)",
    )
    timing.add_argument(
        "--pairs",
        type=options.at_least(1),
        metavar="N",
        help="pairs of fresh processes; open cases get as many again (default: 8)",
    )
    timing.add_argument(
        "--threshold",
        type=float,
        metavar="PERCENT",
        help="smallest relevant slowdown (default: 5)",
    )
    timing.add_argument(
        "--seed", type=options.at_least(0), help="seed of the random orders (default: 0)"
    )
    options.add_store(parser)
    reports = parser.add_argument_group("reports")
    reports.add_argument(
        "--markdown", type=Path, metavar="FILE", help="append a summary for a pull request"
    )
    reports.add_argument("--junit", type=Path, metavar="FILE", help="write a JUnit file")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compare, write the requested files, then print.

    Returns:
        0 for PASS, 1 for FAIL, 3 for AMBIGUOUS; 2 for a fault of the request or the gate. A file
        that cannot be written turns PASS into a fault, and hides no other verdict.
    """
    from bench.gate.outcome import STATUS

    _check_options(arguments)
    start = time.monotonic()
    if arguments.bless:
        return _bless(arguments)
    outcome, table = _timing(arguments) if arguments.timing else _exact(arguments)
    seconds = time.monotonic() - start
    return faults.settled(
        STATUS[outcome.verdict],
        lambda: _write_markdown(outcome, arguments.markdown),
        lambda: _write_junit(outcome, seconds, arguments.junit),
        lambda: options.print_json(table) if arguments.json else print(outcome.text()),
        debug=arguments.debug,
    )


def _jobs(arguments: argparse.Namespace) -> int:
    return options.processes(arguments.jobs, most=2)


def _check_options(arguments: argparse.Namespace) -> None:
    from bench.errors import UsageError

    for name in _EXACT_ALONE if arguments.timing else _TIMING_ALONE:
        if getattr(arguments, name) not in {None, False}:
            with_it = "without" if arguments.timing else "with"
            raise UsageError(f"--{name} goes {with_it} --timing")
    if arguments.bless and not arguments.reason:
        raise UsageError("--bless needs --reason: say why the costs are meant to change")
    if arguments.bless and arguments.only:
        raise UsageError("--bless covers all cases; leave out --only")
    if arguments.threshold is not None and not 0 < arguments.threshold <= 1000:
        raise UsageError(f"--threshold {arguments.threshold:g}: expected 0 to 1000 %")


def _cases(arguments: argparse.Namespace, default: Path) -> "list[Case]":
    from bench.errors import UsageError
    from bench.run.sweep import find_sweep, read_sweep
    from workloads.catalogue import catalogue

    sweep = read_sweep(find_sweep(arguments.cases or str(default)), catalogue())
    cases = [case for case in sweep.cases if (arguments.only or "") in case.title]
    if not cases:
        raise UsageError(f"--only {arguments.only}: no case's title contains it")
    return cases


def _bless(arguments: argparse.Namespace) -> int:
    from bench.errors import UsageError
    from bench.gate.exact import comparison
    from bench.gate.exact.fingerprint import fingerprints
    from bench.records.provenance import ROOT

    path = arguments.baseline or comparison.BASELINE
    if not arguments.baseline and not (ROOT / "pyproject.toml").exists():
        raise UsageError(
            f"{path} belongs to an installed package; name the file to write with --baseline"
        )
    cases = _cases(arguments, comparison.CASES)
    comparison.write_baseline(path, fingerprints(cases, _jobs(arguments)), arguments.reason)
    print(f"blessed {len(cases)} cases for torch {comparison.torch_minor()}: {path}")
    return 0


def _exact(arguments: argparse.Namespace) -> "tuple[Outcome, dict[str, Any]]":
    """Return the outcome, and the table that ``--json`` prints."""
    from bench.gate.exact import comparison
    from bench.gate.exact.fingerprint import fingerprints
    from bench.gate.exact.outcome import of_another_torch, of_changes

    cases = _cases(arguments, comparison.CASES)
    baseline = comparison.read_baseline(arguments.baseline or comparison.BASELINE)
    if baseline.torch != comparison.torch_minor():
        outcome = of_another_torch(baseline.torch, comparison.torch_minor())
        return outcome, {"verdict": outcome.verdict, "reason": outcome.headline, "changes": []}
    pattern = arguments.only or ""
    expected = {
        title: fingerprint
        for title, fingerprint in baseline.fingerprints.items()
        if pattern in title
    }
    changes = comparison.compare(expected, fingerprints(cases, _jobs(arguments)))
    outcome = of_changes([case.title for case in cases], changes)
    rows = [{name: getattr(change, name) for name in change.__slots__} for change in changes]
    return outcome, {"verdict": outcome.verdict, "cases": len(cases), "changes": rows}


def _timing(arguments: argparse.Namespace) -> "tuple[Outcome, dict[str, Any]]":
    """Return the outcome, and the table that ``--json`` prints."""
    from bench.gate.timing.block import Pace
    from bench.gate.timing.gate import CASES, PAIRS, run_gate
    from bench.gate.timing.outcome import of_findings
    from bench.gate.timing.source_trees import source_trees
    from bench.gate.timing.verdict import Rule

    cases = _cases(arguments, CASES)
    rule = Rule() if arguments.threshold is None else Rule(threshold=arguments.threshold / 100)
    with _terminated_in_order(), source_trees(arguments.against) as trees:
        findings = run_gate(
            trees,
            cases,
            options.store(arguments),
            pairs=PAIRS if arguments.pairs is None else arguments.pairs,
            rule=rule,
            seed=arguments.seed or 0,
            pace=Pace(),
        )
    return of_findings(findings), findings.as_json()


@contextmanager
def _terminated_in_order() -> Iterator[None]:
    """Turn SIGTERM, which CI systems send, into an interrupt that leaves no process behind."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _write_markdown(outcome: "Outcome", path: Path | None) -> None:
    """Append the summary to the requested file."""
    from bench.gate.markdown import markdown

    if path:
        with _storage_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(markdown(outcome))


def _write_junit(outcome: "Outcome", seconds: float, path: Path | None) -> None:
    """Replace the requested JUnit file."""
    from bench.gate.junit import junit
    from refsys.files import write_atomically

    if path:
        with _storage_errors(path):
            write_atomically(path, junit(outcome, seconds))


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    """Raise a `StorageError` that names `path` in the place of the system's error."""
    from bench.errors import StorageError

    try:
        yield
    except OSError as error:
        raise StorageError(f"{error.filename or path}: {error.strerror}") from None
