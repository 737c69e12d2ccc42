"""Check that a warm cache leaves nothing to compile: ``python -m bench.compilation.warm_check``.

Run ``foldperf compile --warm`` with an empty cache. Then, for each length, a new process traces a
training step with all blocks, starts its kernels through Triton's launch path with a driver that
launches nothing, and counts compilations. Print a table; the exit status is 1 on a failure.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ARCHITECTURE = "sm_90"
TOKENS = (384, 500, 768, 1024)
# Multiples of every tile, of 16 and of 4, odd numbers, primes.
LENGTHS = (128, 256, 300, 383, 384, 400, 449, 500, 512, 640, 768, 997, 1024)
# Variants of the operators' kernels over LENGTHS.
MOST_VARIANTS = 70


def main(words: Sequence[str] | None = None) -> int:
    """Run the check; return 0 if nothing was compiled and the variants are few enough."""
    parser = argparse.ArgumentParser(prog="warm_check", description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS, metavar="N")
    parser.add_argument("--step", type=int, metavar="N", help=argparse.SUPPRESS)
    parser.add_argument("--variants", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.step:
        print(json.dumps(_start_step(arguments.step)))
        return 0
    if arguments.variants:
        print(json.dumps(_count_variants()))
        return 0
    with tempfile.TemporaryDirectory(prefix="foldperf-warm-") as folder:
        return _check(Path(folder), arguments.tokens)


def _check(folder: Path, tokens: Sequence[int]) -> int:
    environment = os.environ | {"TRITON_CACHE_DIR": str(folder)}
    command = [sys.executable, "-m", "bench", "compile", "--warm", "--json"]
    warmed = _json(
        [*command, "--architecture", ARCHITECTURE, "--tokens", *map(str, tokens)], environment
    )
    broken = [kernel for kernel in warmed["kernels"] if kernel["error"]]
    print(f"{len(warmed['kernels'])} variants compiled for {warmed['requires']}")
    module = [sys.executable, "-m", "bench.compilation.warm_check"]
    print(f"{'tokens':>8} {'launches':>9} {'loaded':>7} {'compiled':>9}")
    compiled = []
    for count in tokens:
        step = _json([*module, "--step", str(count)], environment)
        compiled += step["misses"]
        cells = count, step["launches"], len(step["hits"]), len(step["misses"])
        print("{:>8} {:>9} {:>7} {:>9}".format(*cells), flush=True)
    variants = _json([*module, "--variants"], environment)
    print(f"variants over {len(LENGTHS)} lengths: operators {variants['single']}, at most ", end="")
    print(f"{MOST_VARIANTS} allowed; training steps {variants['steps']}")
    failures = [f"{kernel['kernel']} does not compile: {kernel['error']}" for kernel in broken]
    failures += [f"{name} was compiled despite the warm cache" for name in sorted(set(compiled))]
    if variants["single"] > MOST_VARIANTS:
        failures.append(f"{variants['single']} variants of operators are too many")
    for line in failures:
        print(f"FAIL {line}")
    return 1 if failures else 0


def _json(command: list[str], environment: dict[str, str]) -> Any:
    run = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, encoding="utf-8", check=False
    )
    if not run.stdout:
        raise SystemExit(f"warm_check: {' '.join(command[2:])} ended with {run.returncode}")
    return json.loads(run.stdout)


def _start_step(tokens: int) -> dict[str, Any]:
    """Start all launches of a full training step; return the hits and misses of the cache."""
    from bench.compilation.cache_hits import count_compilations
    from bench.compilation.launches import step_launches
    from bench.compilation.offline import offline, start

    launches = step_launches(ARCHITECTURE, tokens, all_blocks=True)
    with offline(ARCHITECTURE), count_compilations() as compilations:
        for launch in launches:
            start(launch)
    return {"launches": len(launches), "hits": compilations.hits, "misses": compilations.misses}


def _count_variants() -> dict[str, int]:
    """Count the variants that Triton would compile over all lengths."""
    from bench.compilation.launches import distinct, single_launches, step_launches

    operators: set[str] = set()
    steps: set[str] = set()
    for count in LENGTHS:
        operators |= distinct(single_launches(ARCHITECTURE, count), ARCHITECTURE).keys()
        steps |= distinct(step_launches(ARCHITECTURE, count), ARCHITECTURE).keys()
    return {"single": len(operators), "steps": len(steps)}


if __name__ == "__main__":
    sys.exit(main())
