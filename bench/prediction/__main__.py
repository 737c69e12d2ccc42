"""Fit the slowdowns of each device of some records: ``python -m bench.prediction RECORDS ...``."""

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bench.errors import BenchError, UsageError
from bench.prediction.fit import fit_slowdowns
from bench.prediction.pairs import Pair, pairs_of
from bench.prediction.stored_fit import save_fit
from bench.records.reading import read_records


def main(words: Sequence[str] | None = None) -> int:
    """Print and store the fit of each device; return 0, or 2 if none can be fitted."""
    parser = argparse.ArgumentParser(prog="python -m bench.prediction", description=__doc__)
    parser.add_argument("records", nargs="+", type=Path, help="files of records, or folders")
    parser.add_argument("--out", type=Path, help="file of the fit; in the cache folder by default")
    arguments = parser.parse_args(words)
    try:
        pairs, reasons = pairs_of(read_records(arguments.records))
        by_device: defaultdict[str, list[Pair]] = defaultdict(list)
        for pair in pairs:
            by_device[pair.machine.name].append(pair)
        if not by_device:
            raise UsageError("no record has a measured and a predicted time; record some steps")
        if arguments.out and len(by_device) > 1:
            raise UsageError(
                f"--out takes the fit of one device, and the records have {len(by_device)}"
            )
        for run_id, reason in reasons.items():
            print(f"record {run_id} left out: {reason}", file=sys.stderr)
        for device, of_device in by_device.items():
            fit = fit_slowdowns(of_device)
            path = save_fit(fit, arguments.out)
            print(
                f"{device}: {len(of_device)} pairs, |ln(predicted / measured)| median "
                f"{fit.accuracy.median:.3f}, 90 % below {fit.accuracy.p90:.3f}; written to {path}"
            )
            for kind, slowdown in sorted(fit.slowdowns.items()):
                print(f"  {kind:<24} {slowdown:8.3g}")
    except BenchError as error:
        print(f"foldperf: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
