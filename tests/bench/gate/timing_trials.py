"""Error rates of the timing gate: full runs on real processes, of the same or of slowed code.

Not a part of the suite: a trial takes a minute or two. ::

    python tests/bench/gate/timing_trials.py same --trials 50 --out trials.ndjson --core 0
    python tests/bench/gate/timing_trials.py slowed --trials 50 --out trials.ndjson --core 1
    python tests/bench/gate/timing_trials.py summary --out trials.ndjson

``same`` compares a commit with itself. ``slowed`` compares it with a copy in which the forward pass
of one operator takes 1.3 times as long. Each
trial appends a line when it is done, and recorded trials are not run again, so that the script can
be stopped and restarted, and several scripts can share a file.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from bench.guarded_output import GuardedOutput
from bench.records import provenance
from bench.records.git import Repository
from bench.records.working_tree import PACKAGES

OPERATOR = "triangle_attention"
SLOWDOWN = 1.3
ONLY = "operator=triangle"

# Addition to the operator's reference that spends more of its thread's time.
PLANT = f"""

def _slowed(forward):
    import functools
    import time

    @functools.wraps(forward)
    def slowed(*arguments, **options):
        start = time.thread_time()
        out = forward(*arguments, **options)
        end = start + {SLOWDOWN} * (time.thread_time() - start)
        while time.thread_time() < end:
            pass
        return out

    return slowed


{OPERATOR} = _slowed({OPERATOR})
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("same", "slowed", "summary"))
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--core", type=int, help="the core that the trials are bound to")
    parser.add_argument("--share", default="0/1", help="k/n: this process runs every nth trial")
    parser.add_argument("--commit", default="HEAD")
    parser.add_argument("--only", default=ONLY, help="cases, as the gate's --only")
    arguments = parser.parse_args()
    if arguments.kind == "summary":
        summarize(read(arguments.out))
        return
    if arguments.core is not None:
        os.sched_setaffinity(0, {arguments.core})
    with tempfile.TemporaryDirectory(prefix="foldperf-trials-") as folder:
        trees = Path(folder)
        sha = export(arguments.commit, trees / "old")
        export(sha, trees / "new")
        if arguments.kind == "slowed":
            plant(trees / "new")
        share, shares = map(int, arguments.share.split("/"))
        for number in range(share, arguments.trials, shares):
            lines = read(arguments.out)
            done = {(each["kind"], each["trial"]) for each in lines if each["verdict"] != "ERROR"}
            if (arguments.kind, number) not in done:
                line = trial(arguments.kind, number, trees, arguments.only)
                append(arguments.out, line | {"commit": sha} | where())
                print(arguments.kind, number, line["verdict"], line["failed"], flush=True)


def export(commit: str, folder: Path) -> str:
    """Write a commit's packages to a folder; return its full name."""

    def git(*words: str) -> bytes:
        return Repository(provenance.ROOT).ask(*words)

    folder.mkdir()
    tar = git("archive", commit, "--", *PACKAGES)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=tar, check=True)
    return git("rev-parse", commit).decode().strip()


def plant(tree: Path) -> None:
    """Slow the operator down."""
    with (tree / "refsys" / "ops" / OPERATOR / "reference.py").open("a", encoding="utf-8") as file:
        file.write(PLANT)


def trial(kind: str, number: int, trees: Path, only: str) -> dict:
    """Run the gate once, as a maintainer would."""
    start = time.monotonic()
    command = [
        *(sys.executable, "-m", "bench", "gate", "--timing", "--json"),
        *("--against", str(trees / "old"), "--only", only, "--seed", str(number)),
    ]
    done = subprocess.run(
        command,
        cwd=trees / "new",
        env=os.environ | {"PYTHONPATH": str(trees / "new"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    found = {"kind": kind, "trial": number, "status": done.returncode, "only": only}
    found["seconds"] = round(time.monotonic() - start, 1)
    try:
        table = json.loads(done.stdout)
    except ValueError:
        return found | {"verdict": "ERROR", "failed": [], "reason": done.stderr.strip()[-500:]}
    cells = table["cells"]
    return found | {
        "verdict": table["verdict"],
        "failed": [[c["case"], c["phase"]] for c in cells if c["verdict"] == "FAIL"],
        "rule": table["rule"],
        "load": round(table["load"], 2),
        "pairs": max(c["pairs"] for c in cells),
        "cells": [
            [*(c[k] for k in NAMES), *(round(c[k], 4) for k in FIGURES), c["more_pairs"]]
            for c in cells
        ],
    }


NAMES = ("case", "phase", "verdict")
FIGURES = ("change", "low", "high", "floor", "detectable")


def where() -> dict:
    """Return the time, machine and software of a trial."""
    host = provenance.host()
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": {name: getattr(host, name) for name in ("os", "cpu", "hostname_hash")},
        "software": {name: provenance.software()[name] for name in ("python", "torch", "numpy")},
    }


def append(path: Path, line: dict) -> None:
    """Append a line in one piece."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")


def read(path: Path) -> list[dict]:
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if path.exists()
        else []
    )


def summarize(lines: list[dict]) -> None:
    """Print a summary of the trials."""
    for kind in ("same", "slowed"):
        own = [line for line in lines if line["kind"] == kind]
        if not own:
            continue
        verdicts = Counter(line["verdict"] for line in own)
        counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
        named = sum(
            bool(line["failed"]) and all(f"={OPERATOR} " in case for case, _ in line["failed"])
            for line in own
        )
        seconds = sorted(line["seconds"] for line in own)
        print(f"{kind}: {len(own)} trials: {counts}; {named} failed and named {OPERATOR} alone")
        loads = [line["load"] for line in own if "load" in line]
        print(f"  median {seconds[len(own) // 2]:.0f} s, mean load {sum(loads) / len(loads):.1f}")


if __name__ == "__main__":
    with GuardedOutput() as output:
        main()
        sys.exit(output.settled(0))
