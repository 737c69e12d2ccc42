"""Fit the slowdowns of each device of some records: ``python -m bench.prediction RECORDS ...``."""

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bench.errors import BenchError, UsageError
from bench.prediction.fit import FEWEST_PAIRS, Fit, fit_slowdowns
from bench.prediction.pairs import Pair, pairs_of
from bench.prediction.stored_fit import save_fit
from bench.records.reading import read_records
from refsys.errors import RefsysError


def main(words: Sequence[str] | None = None) -> int:
    """Print and store the fit of each device; return 0, or 2 if none can be fitted."""
    parser = argparse.ArgumentParser(prog="python -m bench.prediction", description=__doc__)
    parser.add_argument("records", nargs="+", type=Path, help="files of records, or folders")
    parser.add_argument("--out", type=Path, help="file of the fit; in the cache folder by default")
    arguments = parser.parse_args(words)
    try:
        pairs, reasons = pairs_of(read_records(arguments.records))
        for run_id, reason in reasons.items():
            print(f"record {run_id} left out: {reason}", file=sys.stderr)
        fits = _fits(pairs)
        if arguments.out and len(fits) > 1:
            names = ", ".join(fit.machine.name for fit in fits)
            raise UsageError(f"--out takes the fit of one device, and the records have {names}")
        for fit in fits:
            _print(fit, save_fit(fit, arguments.out))
    except (BenchError, RefsysError) as error:
        print(f"foldperf: {error}", file=sys.stderr)
        return 2
    return 0


def _fits(pairs: Sequence[Pair]) -> list[Fit]:
    """Return the fit of each device that has enough pairs.

    Raises:
        UsageError: no device has.
    """
    by_device: defaultdict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_device[pair.machine.name].append(pair)
    enough = {name: found for name, found in by_device.items() if len(found) >= FEWEST_PAIRS}
    for name in by_device.keys() - enough.keys():
        print(f"{name} left out: {len(by_device[name])} pairs are too few", file=sys.stderr)
    if not enough:
        raise UsageError(
            f"no device has {FEWEST_PAIRS} records with a measured and a predicted time; "
            "record more steps"
        )
    return [fit_slowdowns(found) for found in enough.values()]


def _print(fit: Fit, path: Path) -> None:
    print(
        f"{fit.machine.name}: {fit.accuracy.pairs} pairs, |ln(predicted / measured)| median "
        f"{fit.accuracy.median:.3f}, 90 % below {fit.accuracy.p90:.3f}; written to {path}"
    )
    for kind, slowdown in sorted(fit.slowdowns.items()):
        print(f"  {kind:<24} {slowdown:8.3g}")


if __name__ == "__main__":
    sys.exit(main())
