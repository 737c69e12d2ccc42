"""How much text equals a protein: the sequence whose step costs what another workload's does.

A case of AlphaFold 3 is compared at equal tokens, at equal model FLOPs or at equal peak memory.
Its costs take up to a minute to trace, so that they are kept in the cache folder under a name that
hashes the sources that they follow from.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

from refsys.data.store.columns import MALFORMED
from refsys.files import parse_json, write_json
from refsys.home import home
from workloads.errors import WorkloadError
from workloads.predicted_costs import predicted_costs
from workloads.workload import Config, Workload

TOKENS, FLOPS, MEMORY = KINDS = ("tokens", "flops", "memory")

# Sequences of equal memory are multiples of this, so that they can be found by a dozen traces.
GRANULE = 64
LONGEST = 2**20

_ROOT = Path(__file__).resolve().parents[2]


def step_flops(workload: Workload, config: Config) -> int:
    """Model FLOPs of a step of a case."""
    return kept("step_flops", workload, config, lambda: workload.facts(config).step_flops)


def peak_bytes(workload: Workload, config: Config) -> int:
    """The predicted peak of a step of a case."""
    return kept(
        "peak_bytes", workload, config, lambda: predicted_costs(workload, config).peak.nbytes
    )


def sequence_of_flops(flops: Callable[[int], int], target: int) -> int:
    """The length whose FLOPs are nearest to `target`, by halving.

    Args:
        flops: FLOPs of a length; they grow with it.
        target: FLOPs to come near to.

    Raises:
        WorkloadError: even the longest sequence has fewer.
    """
    low, high = 1, LONGEST
    if flops(high) < target:
        raise WorkloadError(f"{target / 1e12:,.0f} TFLOP are more than {LONGEST:,} tokens take")
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if flops(middle) >= target else (middle + 1, high)
    return low - 1 if low > 1 and target - flops(low - 1) <= flops(low) - target else low


def longest_within(peak: Callable[[int], int], limit: int) -> int:
    """The longest multiple of GRANULE whose peak is no more than `limit`.

    Args:
        peak: Peak bytes of a length; they do not shrink with it.
        limit: Bytes.

    Raises:
        WorkloadError: none is that short, or none that long.
    """
    if peak(GRANULE) > limit:
        raise WorkloadError(
            f"{limit / 1e9:,.3f} GB are too few: a sequence of {GRANULE} tokens takes "
            f"{peak(GRANULE) / 1e9:,.3f} GB; take a smaller preset or another comparison"
        )
    # From below, since long sequences take long to trace.
    fits, fails = 1, 4
    while peak(fails * GRANULE) <= limit:
        if fails * GRANULE >= LONGEST:
            raise WorkloadError(f"{limit / 1e9:,.0f} GB are more than {LONGEST:,} tokens take")
        fits, fails = fails, 4 * fails
    halve = False
    while fails - fits > 1:
        width = fails - fits
        middle = (fits + fails) // 2 if halve else _on_the_line(peak, limit, fits, fails)
        fits, fails = (middle, fails) if peak(middle * GRANULE) <= limit else (fits, middle)
        halve = 2 * (fails - fits) > width
    return fits * GRANULE


def _on_the_line(peak: Callable[[int], int], limit: int, fits: int, fails: int) -> int:
    """Where the line between both ends meets the limit: peaks are linear but for a few bends."""
    low, high = peak(fits * GRANULE), peak(fails * GRANULE)
    met = fits + (fails - fits) * (limit - low) // (high - low)
    return min(max(met, fits + 1), fails - 1)


def kept(what: str, workload: Workload, config: Config, compute: Callable[[], int]) -> int:
    """What follows from a case and the sources alone: from the cache folder, else computed.

    Args:
        what: What it is.
        workload: The case's workload.
        config: The case's configuration.
        compute: Makes it.
    """
    name = json.dumps([what, workload.name, config, torch.__version__, _sources()], sort_keys=True)
    path = home() / "costs" / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"
    with suppress(OSError, *MALFORMED):
        stored = parse_json(path.read_bytes())["value"]
        if isinstance(stored, int) and not isinstance(stored, bool):
            return stored
    value = compute()
    # A machine without a place to write to computes it again.
    with suppress(OSError):
        write_json(path, {"name": name, "value": value})
    return value


@cache
def _sources() -> str:
    """Hash of every file that a cost can follow from."""
    digest = hashlib.sha256()
    for package in ("refsys", "workloads"):
        for path in sorted((_ROOT / package).rglob("*.py")):
            digest.update(f"{path.relative_to(_ROOT).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
