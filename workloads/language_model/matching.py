"""Sequence length at which a step of the language model costs as much as one of AlphaFold 3.

The comparison is at equal tokens, at equal model FLOPs or at equal peak memory. Costs take up to a
minute to trace, so they are cached on disk under a name that contains a hash of the source files.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress

import torch

from refsys.data.store.columns import MALFORMED
from refsys.files import parse_json, write_json
from refsys.home import home
from workloads.errors import WorkloadError
from workloads.predicted_costs import cost_sources, predicted_costs
from workloads.workload import Config, Workload

TOKENS, FLOPS, MEMORY = KINDS = ("tokens", "flops", "memory")

# Sequence lengths of equal memory are multiples of this, so that about twelve traces find one.
GRANULE = 64
LONGEST = 2**20


def step_flops(workload: Workload, config: Config) -> int:
    """Return the model FLOPs of a step of a case."""
    return cached("step_flops", workload, config, lambda: workload.static_costs(config).step_flops)


def peak_bytes(workload: Workload, config: Config) -> int:
    """Return the predicted peak memory of a step of a case, bytes."""
    return cached(
        "peak_bytes", workload, config, lambda: predicted_costs(workload, config).peak.nbytes
    )


def sequence_of_flops(flops: Callable[[int], int], target: int) -> int:
    """Return the sequence length with FLOPs closest to `target`, by bisection.

    Args:
        flops: FLOPs of a sequence length; increasing.
        target: FLOPs to match.

    Raises:
        WorkloadError: `target` exceeds the FLOPs of the longest sequence.
    """
    low, high = 1, LONGEST
    if flops(high) < target:
        raise WorkloadError(f"{target / 1e12:,.0f} TFLOP are more than {LONGEST:,} tokens take")
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if flops(middle) >= target else (middle + 1, high)
    return low - 1 if low > 1 and target - flops(low - 1) <= flops(low) - target else low


def longest_within(peak: Callable[[int], int], limit: int) -> int:
    """Return the longest multiple of GRANULE whose peak memory is at most `limit`.

    Args:
        peak: Peak bytes of a sequence length; non-decreasing.
        limit: Bytes.

    Raises:
        WorkloadError: the shortest sequence exceeds the limit, or the longest one does not.
    """
    if peak(GRANULE) > limit:
        raise WorkloadError(
            f"{limit / 1e9:,.3f} GB are too few: a sequence of {GRANULE} tokens takes "
            f"{peak(GRANULE) / 1e9:,.3f} GB; take a smaller preset or another comparison"
        )
    # Search from below, because long sequences take long to trace.
    fits, fails = 1, 4
    while peak(fails * GRANULE) <= limit:
        if fails * GRANULE >= LONGEST:
            raise WorkloadError(f"{limit / 1e9:,.0f} GB are more than {LONGEST:,} tokens take")
        fits, fails = fails, 4 * fails
    halve = False
    while fails - fits > 1:
        width = fails - fits
        middle = (fits + fails) // 2 if halve else _interpolated(peak, limit, fits, fails)
        fits, fails = (middle, fails) if peak(middle * GRANULE) <= limit else (fits, middle)
        halve = 2 * (fails - fits) > width
    return fits * GRANULE


def _interpolated(peak: Callable[[int], int], limit: int, fits: int, fails: int) -> int:
    """Return the multiple at which the line through both ends crosses the limit.

    Peaks are piecewise linear in the length, with few pieces.
    """
    low, high = peak(fits * GRANULE), peak(fails * GRANULE)
    crossing = fits + (fails - fits) * (limit - low) // (high - low)
    return min(max(crossing, fits + 1), fails - 1)


def cached(quantity: str, workload: Workload, config: Config, compute: Callable[[], int]) -> int:
    """Return a quantity that depends only on a case and the source files, from the disk cache.

    Args:
        quantity: Name of the quantity.
        workload: Workload of the case.
        config: Configuration of the case.
        compute: Called if the cache does not have the value.
    """
    values = workload.values(config)
    key = [quantity, workload.name, values, torch.__version__, cost_sources()]
    name = json.dumps(key, sort_keys=True)
    path = home() / "costs" / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"
    with suppress(OSError, *MALFORMED):
        stored = parse_json(path.read_bytes())["value"]
        if isinstance(stored, int) and not isinstance(stored, bool):
            return stored
    value = compute()
    # Where the cache folder is not writable the value is computed again next time.
    with suppress(OSError):
        write_json(path, {"name": name, "value": value})
    return value
