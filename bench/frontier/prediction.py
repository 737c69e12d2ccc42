"""Longest sequence by tracing: the peak of a step is traced at a few lengths until it is found."""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from bench.frontier.memory import Baseline
from bench.frontier.search import Edge, Outcome, search
from bench.records import provenance
from refsys.errors import HomeError
from refsys.files import parse_json, write_json
from refsys.home import home
from workloads.predicted_costs import predicted_costs
from workloads.workload import Config, Workload

# Peak of a step's tensors by number of tiles. Unit: B.
Peaks = dict[int, int]


def remembered(identity: Mapping[str, Any], compute: Callable[[], int]) -> int:
    """Return a number that follows from an identity, from a file if it was computed before.

    Args:
        identity: All that the number depends on beside source and torch, as JSON.
        compute: Returns the number.
    """
    source = provenance.source_sha256()
    content = json.dumps([identity, source, torch.__version__], sort_keys=True, allow_nan=False)
    name = hashlib.sha256(content.encode()).hexdigest()[:40]
    try:
        path = home() / "traced-peaks" / f"{name}.json"
    except HomeError:
        return compute()
    if (value := _stored(path)) is None:
        value = compute()
        with suppress(OSError):  # else it is computed again
            write_json(path, value)
    return value


def _stored(path: Path) -> int | None:
    try:
        value = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if type(value) is int else None


def traced_peak_bytes(workload: Workload, config: Config) -> int:
    """Return the peak of a rank's tensors in a step, from shapes alone. Unit: B."""
    identity = {
        "workload": workload.name,
        "foreign": provenance.foreign_sha256(type(workload).__module__),
        "config": workload.values(config),
    }
    return remembered(identity, lambda: predicted_costs(workload, config).peak.nbytes)


def predict_edge(
    peak_bytes: Callable[[int], int], limit_bytes: int, baseline: Baseline, most: int, start: int
) -> tuple[Edge, Peaks]:
    """Find the largest number of tiles whose traced peak and baseline are within a limit.

    Args:
        peak_bytes: Traced peak of a number of tiles. Unit: B.
        limit_bytes: Memory of a rank.
        baseline: Memory of a rank beside its tensors.
        most: Largest number of tiles.
        start: Number to trace first.

    Returns:
        The edge, and the peaks that were traced.
    """
    peaks: Peaks = {}

    def oracle(tiles: int) -> Outcome:
        peaks[tiles] = peak_bytes(tiles)
        return "fits" if baseline.with_tensors(peaks[tiles]) <= limit_bytes else "too long"

    def guide(low: int, high: int, outcomes: Mapping[int, Outcome]) -> int:
        del outcomes
        if not peaks:
            return start
        totals = {tiles: baseline.with_tensors(nbytes) for tiles, nbytes in peaks.items()}
        return interpolated(totals, limit_bytes, low, high)

    return search(oracle, most, guide), peaks


def interpolated(totals: Mapping[int, int], limit_bytes: int, low: int, high: int) -> int:
    """Return the largest number between two whose memory is within a limit by a polynomial.

    One known point is extended as a square, two as a constant and a square, and of more those next
    to the bracket lie on a parabola: activations grow with the square of the length, and some with
    its cube.

    Args:
        totals: Known memory by number of tiles, at least one. Unit: B.
        limit_bytes: Memory of a rank.
        low: Lower bound, exclusive.
        high: Upper bound, exclusive.
    """
    memory = _polynomial(_nearest(totals, low, high))
    below, above = low, high
    while above - below > 1:
        middle = (below + above) // 2
        if memory(middle) <= limit_bytes:
            below = middle
        else:
            above = middle
    return below


def _nearest(totals: Mapping[int, int], low: int, high: int) -> list[tuple[float, float]]:
    """Return up to three known points: the bracket's own, then those next to it."""

    def distance(tiles: int) -> int:
        return min(abs(tiles - end) for end in (low, high))

    return [(float(n), float(totals[n])) for n in sorted(totals, key=distance)[:3]]


def _polynomial(points: list[tuple[float, float]]) -> Callable[[float], float]:
    """Return a polynomial through up to three points."""
    if len(points) == 1:
        ((x, y),) = points
        return lambda n: y * (n / x) ** 2
    if len(points) == 2:
        (x, y), (u, v) = points
        square = (v - y) / (u * u - x * x)
        return lambda n: y + square * (n * n - x * x)
    (x, y), (u, v), (s, t) = points
    first = (v - y) / (u - x)
    second = ((t - v) / (s - u) - first) / (s - x)
    return lambda n: y + (n - x) * (first + (n - u) * second)
