"""Timing gate: paired fresh processes of two source trees, and a verdict on every cell."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

from bench.cgroup import usable_cores
from bench.errors import BenchError, UsageError
from bench.gate.outcome import AMBIGUOUS, FAIL, PASS
from bench.gate.timing.block import STEP, Cell, CellTimes, Failed, Pace, measure_block
from bench.gate.timing.source_trees import Trees
from bench.gate.timing.verdict import Judgement, Rule, judge, overall, special
from bench.progress import Progress
from bench.run.sweep import Case

CASES = Path(__file__).with_name("cases.toml")
SCHEMA = "foldperf.timing-gate/1"
PAIRS = 8
LEAST_PAIRS = 4
_PAIRS_OF_BLOCK = 2
# A phase with a smaller share of the step has no verdict of its own.
_LEAST_SHARE = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class TimingFindings:
    """Findings of the timing gate.

    Attributes:
        against: Name of the baseline.
        rule: Rule by which a cell fails or passes.
        seed: Seed of the orders of cases and turns.
        judgements: Verdict by cell.
        times: Times of each block, by cell.
        failures: Failure of each case without times, by its title.
        load: Mean of the host's load average after each block.
    """

    against: str
    rule: Rule
    seed: int
    judgements: dict[Cell, Judgement]
    times: dict[Cell, list[CellTimes]]
    failures: dict[str, Failed]
    load: float

    @property
    def verdict(self) -> str:
        """Return FAIL if a cell failed or only the candidate cannot run a case; else the worst."""
        broken = any(failure.side == "candidate" for failure in self.failures.values())
        return FAIL if broken else overall([cell.verdict for cell in self.judgements.values()])

    def seconds(self, cell: Cell) -> tuple[float, float]:
        """Return the median seconds of a cell, baseline and candidate."""
        blocks = self.times[cell]
        return median(b.baseline_s for b in blocks), median(b.candidate_s for b in blocks)

    def as_json(self) -> dict[str, Any]:
        """Return the findings as JSON for programs."""
        cells = []
        for cell, judgement in self.judgements.items():
            baseline_s, candidate_s = self.seconds(cell)
            blocks = self.times[cell]
            cells.append(
                cell._asdict()
                | asdict(judgement)
                | {"baseline_s": baseline_s, "candidate_s": candidate_s}
                | {"log_ratios": [ratio for block in blocks for ratio in block.pairs]}
                | {"same_side_log_ratios": [r for block in blocks for r in block.same_side]}
            )
        return {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "against": self.against,
            "rule": asdict(self.rule),
            "seed": self.seed,
            "load": self.load,
            "cores": usable_cores(),
            "cells": cells,
            "failures": {title: asdict(failure) for title, failure in self.failures.items()},
        }


@dataclass(slots=True)
class _Samples:
    """Measurements so far."""

    times: dict[Cell, list[CellTimes]] = field(default_factory=dict)
    failures: dict[str, Failed] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)

    def cells(self) -> list[Cell]:
        """Return the cells that get a verdict: relevant phases of cases that never failed."""
        whole = {cell.case: self._seconds(cell) for cell in self.times if cell.phase == STEP}
        return [
            cell
            for cell in self.times
            if cell.case not in self.failures
            and self._seconds(cell) >= _LEAST_SHARE * whole.get(cell.case, 0.0)
        ]

    def _seconds(self, cell: Cell) -> float:
        return median(block.baseline_s for block in self.times[cell])


def run_gate(
    trees: Trees,
    cases: Sequence[Case],
    store: Path,
    *,
    pairs: int = PAIRS,
    rule: Rule,
    seed: int = 0,
    pace: Pace,
) -> TimingFindings:
    """Compare two trees; cases that the first pairs leave open run as many pairs again.

    Raises:
        UsageError: Too few pairs, a case with several ranks, or no SciPy.
        BenchError: A measuring process died, or no case could be timed.
    """
    if pairs < LEAST_PAIRS or pairs % _PAIRS_OF_BLOCK:
        raise UsageError(f"--pairs {pairs}: expected an even number, {LEAST_PAIRS} at least")
    if several := [case.title for case in cases if case.ranks > 1]:
        raise UsageError(f"{several[0]}: the timing gate times cases of one rank alone")
    special()
    samples = _Samples()
    blocks = pairs // _PAIRS_OF_BLOCK
    _measure(samples, trees, cases, store, range(blocks), seed, pace)
    if not samples.cells() and not any(f.side == "candidate" for f in samples.failures.values()):
        title, failure = next(iter(samples.failures.items()))
        raise BenchError(f"no case could be timed; {title}: {failure.reason}")
    judgements = _judge(samples, rule)
    verdicts = [judgement.verdict for judgement in judgements.values()]
    if overall(verdicts) == AMBIGUOUS:
        open_cases = {
            cell.case for cell, judgement in judgements.items() if judgement.verdict == AMBIGUOUS
        }
        again = [case for case in cases if case.title in open_cases]
        _measure(samples, trees, again, store, range(blocks, 2 * blocks), seed, pace)
        later = _judge(samples, rule)
        # A cell that passed at the first look stays so; the second look is for open cells.
        judgements = {
            cell: before
            if (before := judgements.get(cell)) and before.verdict == PASS
            else judgement
            for cell, judgement in later.items()
        }
    # Blocks have random orders; the report has the order of the cases.
    order = {case.title: index for index, case in enumerate(cases)}
    listed = sorted(judgements, key=lambda cell: order[cell.case])
    return TimingFindings(
        against=trees.against,
        rule=rule,
        seed=seed,
        judgements={cell: judgements[cell] for cell in listed},
        times={cell: samples.times[cell] for cell in listed},
        failures=samples.failures,
        load=fmean(samples.loads),
    )


def _measure(
    samples: _Samples,
    trees: Trees,
    cases: Sequence[Case],
    store: Path,
    numbers: range,
    seed: int,
    pace: Pace,
) -> None:
    """Add blocks to the samples."""
    what = f"{len(cases)} cases against {trees.against}"
    with Progress(len(numbers), "timing gate") as progress:
        for number in numbers:
            progress.start(f"pairs {2 * number + 1} and {2 * number + 2}")
            # Each block has orders of its own.
            times, failures = measure_block(trees, cases, store, (seed << 16) + number, pace)
            for cell, cell_times in times.items():
                samples.times.setdefault(cell, []).append(cell_times)
            samples.failures |= failures
            samples.loads.append(os.getloadavg()[0])
            progress.finish(f"pairs {2 * number + 1} and {2 * number + 2} of {what}")


def _judge(samples: _Samples, rule: Rule) -> dict[Cell, Judgement]:
    cells = samples.cells()
    return {
        cell: judge(
            [ratio for block in samples.times[cell] for ratio in block.pairs],
            [ratio for block in samples.times[cell] for ratio in block.same_side],
            len(cells),
            rule,
        )
        for cell in cells
    }
