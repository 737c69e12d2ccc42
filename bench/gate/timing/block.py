"""One block of the timing gate: four fresh processes, two of each side, that take turns.

All four have the same case built at the same time, and one after the other times a slice of it,
round after round. What the host does for longer than a round meets all four alike, and drops out
of the ratios within a round. What differs from process to process with the same code (addresses,
hash seeds, the allocator's layout) is in the ratio of the two processes of one side.
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
    """What is judged: a phase of a case, or its whole step.

    Attributes:
        case: Title of the case.
        phase: The phase, or ``step``.
    """

    case: str
    phase: str


@dataclass(frozen=True, slots=True)
class CellTimes:
    """What a block says of a cell.

    Attributes:
        pairs: Log of candidate over baseline, of each of the two pairs of processes.
        same_side: Log of one process over the other of the same side: baseline, candidate.
        baseline_s: Seconds, the baseline's median slice.
        candidate_s: Seconds, the candidate's.
    """

    pairs: tuple[float, float]
    same_side: tuple[float, float]
    baseline_s: float
    candidate_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a case has no times.

    Attributes:
        side: baseline, candidate or both.
        status: As in records.
        reason: One line.
    """

    side: str
    status: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How long a block takes for a case.

    Attributes:
        rounds: Slices of each process.
        least_rounds: The same where a case would take longer than `case_s`.
        case_s: Seconds of a case after which no round begins, if there are enough.
        slice_s: Seconds of a slice; a step that is longer is a slice.
        rebuild_s: A case that is built within this is built anew for every round.
        timeout_s: Longest wait for a reply.
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
    """Times all cases with four new processes.

    Args:
        trees: The two source trees.
        cases: What to time; their order is drawn.
        store: Prepared inputs.
        seed: Decides the orders of cases and of turns.
        pace: How long.
        tell: Called with the title of a case when it is done.

    Returns:
        Times by cell, and by case title why there are none.

    Raises:
        BenchError: a process died or fell silent; the message names side and case.
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
    """Builds a case in all processes at once; why it cannot be timed, or None."""
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
    """Lets the processes take turns, and compares them within each round."""
    # Phases that both sides have; a renamed one counts towards the step alone.
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
    # Of a step of one phase, the phase is the step.
    names = phases if len(team[0].phases) == 1 == len(phases) else [*phases, STEP]
    return {
        Cell(title, name): _compare([[found[name] for found in each] for each in rounds])
        for name in names
    }


def _typical(phases: Sequence[str], steps: Sequence[Sequence[float]]) -> dict[str, float]:
    """The lower quartile of a slice's steps, by phase and whole.

    Of what was tried it differs least between processes of the same code: a minimum hangs on one
    lucky step, and a median on how often the host looked away.
    """
    columns = dict(zip(phases, zip(*steps, strict=True), strict=True))
    columns[STEP] = tuple(map(sum, steps))
    return {name: sorted(column)[len(column) // 4] for name, column in columns.items()}


def _compare(rounds: Sequence[Sequence[float]]) -> CellTimes:
    """Of a cell's seconds by round and process."""

    def ratio(first: int, second: int) -> float:
        return _trimmed_mean([math.log(each[second] / each[first]) for each in rounds])

    def seconds(*processes: int) -> float:
        return median(each[process] for each in rounds for process in processes)

    (a, b), (c, d) = _PAIRS
    return CellTimes(
        (ratio(a, b), ratio(c, d)),
        (ratio(*_SAME_SIDE[0]), ratio(*_SAME_SIDE[1])),
        seconds(a, c),
        seconds(b, d),
    )


def _trimmed_mean(values: Sequence[float]) -> float:
    """Without the smallest and the largest.

    A median would jump where an operator has two speeds by its addresses, a mean where the host
    was away for a slice.
    """
    return mean(sorted(values)[1:-1] if len(values) > 2 else values)
