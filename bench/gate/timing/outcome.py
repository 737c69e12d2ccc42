"""Findings of the timing gate in words."""

from statistics import median

from bench.cgroup import usable_cores
from bench.gate.outcome import AMBIGUOUS, FAIL, PASS, SKIPPED, Item, Outcome
from bench.gate.timing.block import Cell, Failed
from bench.gate.timing.gate import TimingFindings
from bench.gate.timing.verdict import MOST_PAIRS, Judgement

_COLUMNS = ("baseline", "candidate", "change", "at least", "at most", "same code")


def of_findings(findings: TimingFindings) -> Outcome:
    """Return the outcome: an item for each cell, and for each case without cells."""
    items = [_item(findings, cell, judgement) for cell, judgement in findings.judgements.items()]
    items += [_failure(title, failure) for title, failure in findings.failures.items()]
    return Outcome(
        gate="timing",
        verdict=findings.verdict,
        headline=_headline(findings),
        columns=_COLUMNS,
        items=tuple(items),
        notes=tuple(_notes(findings)),
    )


def _headline(findings: TimingFindings) -> str:
    judgements = findings.judgements.values()
    cases = len({cell.case for cell in findings.judgements})
    cells = f"{len(judgements)} cells in {cases} case{'s' if cases > 1 else ''}"
    against, threshold = findings.against, _percent(findings.rule.threshold)
    if findings.verdict == FAIL:
        slower = sum(judgement.verdict == FAIL for judgement in judgements)
        broken = sum(failure.side == "candidate" for failure in findings.failures.values())
        parts = [f"{slower} of {cells} slower than {against}"] if slower or not broken else []
        parts += [f"{broken} cases that run there no longer do"] if broken else []
        return "; ".join(parts)
    if findings.verdict == PASS:
        return f"{cells}, none {threshold} slower than {against}"
    open_cells = sum(judgement.verdict == AMBIGUOUS for judgement in judgements)
    return (
        f"too noisy to tell whether {open_cells} of {cells} are {threshold} slower than {against}"
    )


def _item(findings: TimingFindings, cell: Cell, judgement: Judgement) -> Item:
    before, after = findings.seconds(cell)
    return Item(
        case=cell.case,
        name=cell.phase,
        verdict=judgement.verdict,
        message=_message(judgement, before, after),
        figures=(
            _time(before),
            _time(after),
            *(_signed(change) for change in (judgement.change, judgement.low, judgement.high)),
            f"±{_percent(judgement.floor)}",
        ),
    )


def _message(judgement: Judgement, before: float, after: float) -> str:
    change = f"{_time(before)} -> {_time(after)}, {_signed(judgement.change)}"
    if judgement.verdict == FAIL:
        return (
            f"{change}, at least {_signed(judgement.low)}; the same code moves by up to "
            f"{_percent(judgement.floor)}"
        )
    if judgement.verdict == AMBIGUOUS:
        more = judgement.more_pairs
        settled = (
            f"more than {MOST_PAIRS} pairs would settle it: it takes a quieter machine"
            if more is None
            else f"about {more} more pairs would settle it"
        )
        return f"{change}, at most {_signed(judgement.high)}; {settled}"
    return f"{change}, at most {_signed(judgement.high)}{', faster' if judgement.faster else ''}"


def _failure(title: str, failure: Failed) -> Item:
    if failure.side == "candidate":
        message = f"ran on the baseline, and no longer does: {failure.status}: {failure.reason}"
        return Item(case=title, name="build", verdict=FAIL, message=message)
    where = "is new, or fails on the baseline" if failure.side == "baseline" else "cannot run here"
    message = f"{where}: {failure.status}: {failure.reason}"
    return Item(case=title, name="build", verdict=SKIPPED, message=message)


def _notes(findings: TimingFindings) -> list[str]:
    judgements = findings.judgements
    notes = [
        f"faster: {cell.case} {cell.phase}: {_message(judgement, *findings.seconds(cell))}"
        for cell, judgement in judgements.items()
        if judgement.faster
    ]
    if not judgements:
        return notes
    worst = max(judgements, key=lambda cell: judgements[cell].detectable)
    middle = median(judgement.detectable for judgement in judgements.values())
    pairs = sorted({judgement.pairs for judgement in judgements.values()})
    notes.append(
        f"{' to '.join(map(str, pairs))} pairs of fresh processes: nine times in ten, a slowdown "
        f"of {_percent(middle)} fails in the median cell, and one of "
        f"{_percent(judgements[worst].detectable)} in the noisiest, {worst.case} {worst.phase}."
    )
    if findings.verdict == AMBIGUOUS:
        needed = [
            judgement.pairs + judgement.more_pairs
            for judgement in judgements.values()
            if judgement.more_pairs
        ]
        open_cells = [
            judgement for judgement in judgements.values() if judgement.verdict == AMBIGUOUS
        ]
        if len(needed) == len(open_cells):
            # The gate doubles the number of pairs where cells are open.
            notes.append(f"To settle all of it: --pairs {_even(max(needed) / 2)}.")
        notes.append(
            f"The machine's load was {findings.load:.1f} on {usable_cores()} cores; "
            "below the number of cores the noise is least."
        )
    return notes


def _even(number: float) -> int:
    return -int(-number // 2) * 2


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"


def _signed(fraction: float) -> str:
    return f"{100 * fraction:+.1f} %"


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
