"""Longest sequence by tracing: the peak of a step is traced at a few lengths until it is found."""

from collections.abc import Callable, Mapping

from bench.frontier.search import Edge, Outcome, search
from bench.simulation.baseline import Baseline
from bench.simulation.traces import SimulatedCase, trace_of
from workloads.workload import Config, Workload

# Peak of a step's tensors by number of tiles. Unit: B.
Peaks = dict[int, int]


def traced_peak_bytes(workload: Workload, config: Config) -> int:
    """Return the peak of a rank's tensors in a step, from shapes alone. Unit: B."""
    return trace_of(SimulatedCase(workload.name, config)).peak.nbytes


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
