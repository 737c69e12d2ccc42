"""Block of the timing gate: four fresh processes, two of each side, that alternate.

All four build the same case at the same time, and one after the other times a slice of it, round
after round. A disturbance that lasts longer than a round affects all four alike, and cancels in the
ratios within a round. The ratio of the two processes of one side measures the variation between
processes with the same code (addresses, hash seeds, the allocator's layout).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from time import monotonic
from typing import Any, NamedTuple

from bench.gate.timing.measuring_process import MeasuringProcess
from bench.gate.timing.source_trees import Trees
from bench.run.sweep import Case
from refsys.streams import Draw

STEP = "step"
# The two pairs of a block, and in them the orders in which a round may go.
_SIDES = ("baseline", "candidate", "candidate", "baseline")
_PAIRS = ((0, 1), (3, 2))
_SAME_SIDE = ((0, 3), (1, 2))
_ORDERS = ((0, 1, 2, 3), (1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0))


class Cell(NamedTuple):
    """Phase of a case, or its whole step, on which the gate has a verdict.

    Attributes:
        case: Title of the case.
        phase: Name of the phase, or ``step``.
    """

    case: str
    phase: str


@dataclass(frozen=True, slots=True)
class CellTimes:
    """Times of a cell in a block.

    Attributes:
        pairs: Log of candidate over baseline in each of the two pairs of processes.
        same_side: Log of one process over the other of the same side: baseline, candidate.
        baseline_s: Median slice of the baseline. Unit: s.
        candidate_s: Median slice of the candidate. Unit: s.
    """

    pairs: tuple[float, float]
    same_side: tuple[float, float]
    baseline_s: float
    candidate_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """Case without times, and the reason.

    Attributes:
        side: baseline, candidate or both.
        status: Status as in records.
        reason: Reason in one line.
    """

    side: str
    status: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """Time that a block spends on a case.

    Attributes:
        rounds: Number of slices of each process.
        least_rounds: Number of slices if a case would take longer than `case_s`.
        case_s: Time of a case after which no round begins, if there are enough. Unit: s.
        slice_s: Length of a slice; a longer step is a slice. Unit: s.
        rebuild_s: Longest build of a case that is built anew for every round. Unit: s.
        timeout_s: Longest wait for a reply. Unit: s.
    """

    rounds: int = 6
    least_rounds: int = 4
    case_s: float = 4.0
    slice_s: float = 0.03
    rebuild_s: float = 0.2
    timeout_s: float = 300.0


Times = dict[Cell, CellTimes]
Team = Sequence[MeasuringProcess]


def measure_block(
    trees: Trees,
    cases: Sequence[Case],
    store: Path,
    seed: int,
    pace: Pace,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[Times, dict[str, Failed]]:
    """Time all cases with four new processes.

    Args:
        trees: Source trees of both sides.
        cases: Cases, which run in random order.
        store: Prepared inputs.
        seed: Seed of the orders of cases and of turns.
        pace: Time for each case.
        tell: Called with the title of each case that is done.

    Returns:
        Times by cell, and failures by case title.

    Raises:
        BenchError: A process died or does not reply; the message names side and case.
    """
    times: Times = {}
    failures: dict[str, Failed] = {}
    with ExitStack() as stack:
        folders = {"baseline": trees.baseline, "candidate": trees.candidate}
        team = [stack.enter_context(MeasuringProcess(side, folders[side])) for side in _SIDES]
        for process in team:
            process.greeted(pace.timeout_s)
        for index in Draw(seed, "timing gate cases").permutation(len(cases)).tolist():
            case, turns = cases[index], Draw(seed, "timing gate turns", index)
            failure = _build(team, case, store, pace)
            if failure:
                failures[case.title] = failure
            else:
                orders = [_ORDERS[turns.below(len(_ORDERS), k)] for k in range(pace.rounds)]
                times |= _time(team, case.title, orders, pace)
            tell(case.title)
    return times, failures


def _build(team: Team, case: Case, store: Path, pace: Pace) -> Failed | None:
    """Build a case in all processes at once; return the failure, or None."""
    request = {
        "workload": case.workload,
        "config": case.axes,
        "device": case.device,
        "store": str(store.resolve()),
        "seed": case.seed,
    }
    replies = _all_at_once(team, {"request": "build", "case": request}, case.title, pace)
    failed = {
        process.side: reply
        for process, reply in zip(team, replies, strict=True)
        if "failed" in reply
    }
    if not failed:
        return None
    side, reply = next(iter(failed.items()))
    return Failed("both" if len(failed) > 1 else side, reply["failed"], reply["reason"])


def _all_at_once(
    team: Team, request: Mapping[str, Any], title: str, pace: Pace
) -> list[dict[str, Any]]:
    for process in team:
        process.ask(request, title)
    replies = [process.answer(pace.timeout_s) for process in team]
    for process, reply in zip(team, replies, strict=True):
        process.phases = reply.get("phases", [])
        process.build_s = reply.get("build_s", math.inf)
    return replies


def _time(team: Team, title: str, orders: Iterable[Sequence[int]], pace: Pace) -> Times:
    """Time a case in the processes in turns, and compare them within each round."""
    # Phases that both sides have; a renamed phase counts in the step alone.
    phases = [phase for phase in team[0].phases if phase in team[1].phases]
    cheap = max(process.build_s for process in team) <= pace.rebuild_s
    rounds: list[list[dict[str, float]]] = []
    start = monotonic()
    for order in orders:
        if len(rounds) >= pace.least_rounds and monotonic() - start > pace.case_s:
            break
        if rounds and cheap:
            _all_at_once(team, {"request": "rebuild"}, title, pace)
        one_round: dict[int, dict[str, float]] = {}
        for index in order:
            process = team[index]
            process.ask({"request": "slice", "seconds": pace.slice_s}, title)
            one_round[index] = _typical(process.phases, process.answer(pace.timeout_s)["steps"])
        rounds.append([one_round[index] for index in range(len(team))])
    # In a step of one phase, the phase is the step.
    names = phases if len(team[0].phases) == 1 == len(phases) else [*phases, STEP]
    return {
        Cell(title, name): _compare(
            [[times_of_process[name] for times_of_process in times] for times in rounds]
        )
        for name in names
    }


def _typical(phases: Sequence[str], steps: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return the lower quartile of a slice's steps, by phase and for the step.

    It varies less between processes of the same code than the minimum, which depends on one lucky
    step, and the median, which depends on how often the host was busy.
    """
    columns = dict(zip(phases, zip(*steps, strict=True), strict=True))
    columns[STEP] = tuple(map(sum, steps))
    return {name: sorted(column)[len(column) // 4] for name, column in columns.items()}


def _compare(rounds: Sequence[Sequence[float]]) -> CellTimes:
    """Return the times of a cell from its seconds by round and process."""

    def ratio(first: int, second: int) -> float:
        return _trimmed_mean([math.log(times[second] / times[first]) for times in rounds])

    def seconds(*processes: int) -> float:
        return median(times[process] for times in rounds for process in processes)

    (a, b), (c, d) = _PAIRS
    return CellTimes(
        (ratio(a, b), ratio(c, d)),
        (ratio(*_SAME_SIDE[0]), ratio(*_SAME_SIDE[1])),
        seconds(a, c),
        seconds(b, d),
    )


def _trimmed_mean(values: Sequence[float]) -> float:
    """Return the mean without the smallest and the largest value.

    A median would jump for an operator with two speeds by its addresses, a mean when the host is
    busy during a slice.
    """
    return mean(sorted(values)[1:-1] if len(values) > 2 else values)
