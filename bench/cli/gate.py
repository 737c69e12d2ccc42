"""``foldperf gate``."""

import argparse
import os
import sys
from pathlib import Path

from bench.cli import options

SUMMARY = "compare exact costs with the committed baseline"
EXAMPLE = "foldperf gate\n  foldperf gate --bless --reason 'fused the transition'"
_SHOWN = 12


def configure(parser: argparse.ArgumentParser) -> None:
    """What to compare, with what."""
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="default: the committed one")
    parser.add_argument("--cases", metavar="SWEEP", help="cases to cover (default: the gate's own)")
    parser.add_argument("--only", metavar="TEXT", help="cover only cases whose title contains this")
    parser.add_argument(
        "--jobs",
        type=options.at_least(1),
        default=min(2, len(os.sched_getaffinity(0))),
        help="processes (default: 2)",
    )
    parser.add_argument("--bless", action="store_true", help="make the candidate the baseline")
    parser.add_argument("--reason", metavar="TEXT", help="why it is blessed")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Status 0 if nothing moved, 1 if something did, 3 if the baseline speaks of another torch."""
    from bench.errors import UsageError
    from bench.gate import exact
    from bench.gate.fingerprint import fingerprints
    from bench.sweep import find_sweep, read_sweep
    from workloads.catalogue import catalogue

    path = arguments.baseline or exact.BASELINE
    sweep = read_sweep(find_sweep(arguments.cases or str(exact.CASES)), catalogue())
    wanted = arguments.only or ""
    cases = [case for case in sweep.cases if wanted in case.title]
    if not cases:
        raise UsageError(f"--only {arguments.only}: no case's title contains it")
    if arguments.bless:
        if not arguments.reason:
            raise UsageError("--bless needs --reason: say why the costs are meant to change")
        if arguments.only:
            raise UsageError("--bless covers all cases; leave out --only")
        exact.write_baseline(path, fingerprints(cases, arguments.jobs), arguments.reason)
        print(f"blessed {len(cases)} cases for torch {exact.torch_minor()}: {path}")
        return 0
    baseline = exact.read_baseline(path)
    if baseline.torch != exact.torch_minor():
        return _ambiguous(baseline.torch, exact.torch_minor(), arguments.json)
    expected = {title: each for title, each in baseline.fingerprints.items() if wanted in title}
    changes = exact.compare(expected, fingerprints(cases, arguments.jobs))
    _report(changes, len(cases), arguments.json)
    return 1 if changes else 0


def _ambiguous(theirs: str, ours: str, as_json: bool) -> int:
    reason = (
        f"the baseline is of torch {theirs}, this is torch {ours}: operators decompose otherwise "
        "there, so that costs cannot be compared"
    )
    if as_json:
        options.print_json({"verdict": "AMBIGUOUS", "reason": reason, "changes": []})
    else:
        print(f"AMBIGUOUS: {reason}")
    return 3


def _report(changes: list, cases: int, as_json: bool) -> None:
    verdict = "FAIL" if changes else "PASS"
    if as_json:
        rows = [{name: getattr(change, name) for name in change.__slots__} for change in changes]
        options.print_json({"verdict": verdict, "cases": cases, "changes": rows})
        return
    if not changes:
        print(f"PASS: {cases} cases cost what the baseline says, to the last call, FLOP and byte")
        return
    titles = dict.fromkeys(change.case for change in changes)
    print(f"FAIL: {len(changes)} figures moved in {len(titles)} of {cases} cases")
    for title in titles:
        own = [change for change in changes if change.case == title]
        print(f"{title}:")
        for change in own[:_SHOWN]:
            print(f"  {change}")
        if len(own) > _SHOWN:
            print(f"  and {len(own) - _SHOWN} more; --json lists all")
    print("If this is meant: foldperf gate --bless --reason '...'", file=sys.stderr)
