"""Fuzzing of all file readers with thousands of damaged files.

The test suite reads the first thousand. All of them, into a record::

    python tests/refsys/data/fuzz.py --out results/recorded/fuzz.json
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

# Folders of the tests have the names of packages, which come first.
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
sys.path.append(str(Path(__file__).resolve().parents[2]))

from support.fuzzing import LONGEST_S, MOST_BYTES, fuzz, targets

from bench.guarded_output import GuardedOutput
from bench.progress import Progress
from bench.records import provenance
from refsys.data.prepare.fetch import packages
from refsys.files import write_json
from refsys.home import package_cache

INPUTS = 20_000
_LINES = 20
_READERS = ("biotite", "gemmi", "msgpack", "numpy", "pyarrow", "pyhmmer", "rdkit")


def main():
    """Read the inputs; return 0 without faults, 1 if a reader is at fault, 2 without inputs."""
    with GuardedOutput() as output:
        return output.settled(run())


def run():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=INPUTS)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--out", type=Path, help="the record (default: printed)")
    arguments = parser.parse_args()
    listed = packages(package_cache())
    if missing := [package.name for package in listed if not package.is_cached()]:
        print(f"{', '.join(missing)} not in the cache; run 'foldperf fetch --all'", file=sys.stderr)
        return 2
    sources = {source.entry: source for package in listed for source in package.sources}
    inputs = range(arguments.first, arguments.first + arguments.inputs)
    every = max(1, len(inputs) // _LINES)
    with tempfile.TemporaryDirectory() as folder, Progress(_LINES, "reading") as progress:

        def done(number):
            if (number - inputs.start) % every == 0:
                progress.finish(f"{number - inputs.start} inputs read")

        outcome = fuzz(targets(sources, Path(folder)), inputs, Path(folder), done)
    record = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": asdict(provenance.git_state()),
        "host": asdict(provenance.host()),
        "software": {name: version(name) for name in _READERS},
        "inputs": [inputs.start, inputs.stop],
        "limits": {"seconds": LONGEST_S, "bytes": MOST_BYTES},
        "slowest_s": outcome.slowest_s,
        "largest_bytes": outcome.largest_bytes,
        "ended": {
            name: {kind: outcome.ended[name, kind] for kind in ("value", "error")}
            for name in sorted({name for name, _ in outcome.ended})
        },
        "faults": [list(fault) for fault in outcome.faults],
    }
    if arguments.out:
        write_json(arguments.out, record)
    else:
        print(json.dumps(record, indent=1))
    for number, target, what in outcome.faults:
        print(f"input {number}: {target}: {what}", file=sys.stderr)
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
