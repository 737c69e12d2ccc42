"""Verdict on a change of time from pairs of processes, and its resolution.

A sample is one pair of fresh processes: the log of candidate over baseline. Steps within a process
are not samples: more of them make an interval narrower but not more accurate (Kalibera & Jones,
ISMM 2013).

- FAIL: the lower bound is above zero, and the estimate is above the threshold and above what the
  same number of pairs of the *same* code would show by chance. Over all cells together identical
  code fails with at most the stated probability (Bonferroni).
- PASS: the upper bound is below the threshold. All cells must pass for the gate to pass, so that
  this bound needs no correction for their number.
- AMBIGUOUS: neither, with the number of pairs that would settle it at the observed noise.
"""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from bench.errors import UsageError
from bench.gate.outcome import AMBIGUOUS, FAIL, PASS

# Planned numbers of pairs and detectable effects hold with this probability.
_POWER = 0.9
# A cell that needs more pairs than this needs a quieter machine.
MOST_PAIRS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """Rule by which a cell fails or passes.

    Attributes:
        threshold: Smallest relevant slowdown, as a fraction.
        false_fail: Probability that identical code fails, over all cells and looks.
        false_pass: Probability that a cell at the threshold passes, over all looks.
        looks: Number of times that the samples are evaluated, each time with more of them.
    """

    threshold: float = 0.05
    false_fail: float = 0.01
    false_pass: float = 0.05
    looks: int = 2


@dataclass(frozen=True, slots=True)
class Judgement:
    """Verdict on a cell; all changes are candidate over baseline less one.

    Attributes:
        verdict: PASS, FAIL or AMBIGUOUS.
        change: Estimate.
        low: Lower bound, with the confidence of a FAIL.
        high: Upper bound, with the confidence of a PASS.
        floor: Change that the same code could show by chance.
        detectable: Smallest slowdown that would fail nine times in ten.
        pairs: Number of pairs of processes.
        more_pairs: Number of further pairs that would settle it; 0 if it is settled, None if it
            would take too many.
        faster: True for an improvement by the mirrored rule of a FAIL.
    """

    verdict: str
    change: float
    low: float
    high: float
    floor: float
    detectable: float
    pairs: int
    more_pairs: int | None
    faster: bool


def judge(pairs: Sequence[float], same_side: Sequence[float], cells: int, rule: Rule) -> Judgement:
    """Return the verdict on a cell.

    Args:
        pairs: Log of candidate over baseline in each pair of processes; 4 at least.
        same_side: Log of one process over another of the same side.
        cells: Number of cells that get a verdict together.
        rule: Rule by which a cell fails or passes.
    """
    n, estimate, spread = len(pairs), fmean(pairs), stdev(pairs)
    same = math.sqrt(fmean([log_ratio**2 for log_ratio in same_side]))
    fails, passes = rule.false_fail / cells / rule.looks, rule.false_pass / rule.looks
    threshold = math.log1p(rule.threshold)
    low = estimate - _quantile(n - 1, fails) * spread / math.sqrt(n)
    high = estimate + _quantile(n - 1, passes) * spread / math.sqrt(n)
    floor = _quantile(len(same_side), fails) * same / math.sqrt(n)
    noise = math.hypot(spread, same) / math.sqrt(2)
    detectable = _failing_effect(n, fails) * noise / math.sqrt(n)
    slower = low > 0 and estimate > max(threshold, floor)
    verdict = FAIL if slower else PASS if high < threshold else AMBIGUOUS
    more: int | None = 0
    if verdict == AMBIGUOUS:
        needed = _pairs_needed(estimate, low, high, noise, threshold, (fails, passes))
        more = None if needed is None else max(needed - n, 2)
    # The interval of an improvement is the mirrored one.
    other = estimate + (estimate - low)
    return Judgement(
        verdict=verdict,
        change=math.expm1(estimate),
        low=math.expm1(low),
        high=math.expm1(high),
        floor=math.expm1(floor),
        detectable=math.expm1(max(threshold, detectable)),
        pairs=n,
        more_pairs=more,
        faster=other < 0 and estimate < -max(threshold, floor),
    )


def overall(verdicts: Sequence[str]) -> str:
    """Return the gate's verdict: the worst of its cells'."""
    return next((worst for worst in (FAIL, AMBIGUOUS) if worst in verdicts), PASS)


def _pairs_needed(
    estimate: float,
    low: float,
    high: float,
    noise: float,
    threshold: float,
    errors: tuple[float, float],
) -> int | None:
    """Return the pairs that would decide nine times in ten at the same noise and estimate.

    An estimate whose interval includes zero is taken for zero.
    """
    fails, passes = errors
    chance = low <= 0 <= high

    def decides(n: int) -> bool:
        if estimate > threshold:
            return _failing_effect(n, fails) * noise / math.sqrt(n) < estimate
        room = threshold - (0.0 if chance else estimate)
        return _noticed(n - 1, passes, 1 - _POWER) * noise / math.sqrt(n) < room

    numbers = range(4, MOST_PAIRS + 1, 2)
    index = bisect.bisect_left(numbers, True, key=decides)
    return numbers[index] if index < len(numbers) else None


def _failing_effect(n: int, beyond: float) -> float:
    """Return the effect, in standard errors, that fails nine times in ten by both conditions."""
    miss = (1 - _POWER) / 2
    return max(_noticed(n - 1, beyond, miss), _noticed(n, beyond, miss))


def _noticed(freedom: int, beyond: float, miss: float) -> float:
    """Return the effect, in standard errors, that a t-test misses with probability `miss`."""
    return float(special().nctdtrinc(freedom, miss, _quantile(freedom, beyond)))


def _quantile(freedom: int, beyond: float) -> float:
    """Return Student's t that is exceeded with probability `beyond`."""
    return float(special().stdtrit(freedom, 1 - beyond))


def special() -> Any:
    """Return SciPy's special functions.

    Raises:
        UsageError: SciPy is missing.
    """
    try:
        from scipy import special as functions
    except ImportError:
        raise UsageError("the timing gate needs SciPy: pip install 'foldperf[analysis]'") from None
    return functions
