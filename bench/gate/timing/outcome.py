"""The timing gate's findings in words."""

from statistics import median

from bench.cgroup import usable_cores
from bench.gate.outcome import AMBIGUOUS, FAIL, PASS, SKIPPED, Item, Outcome
from bench.gate.timing.block import Cell, Failed
from bench.gate.timing.gate import Found
from bench.gate.timing.verdict import MOST_PAIRS, Judgement

_COLUMNS = ("baseline", "candidate", "change", "at least", "at most", "same code")


def of_found(found: Found) -> Outcome:
    """The timing gate's outcome: an item for each cell, and for each case that has none."""
    items = [_item(found, cell, judgement) for cell, judgement in found.judgements.items()]
    items += [_failure(title, failure) for title, failure in found.failures.items()]
    return Outcome(
        gate="timing",
        verdict=found.verdict,
        headline=_headline(found),
        columns=_COLUMNS,
        items=tuple(items),
        notes=tuple(_notes(found)),
    )


def _headline(found: Found) -> str:
    judged = found.judgements.values()
    cases = len({cell.case for cell in found.judgements})
    cells = f"{len(judged)} cells in {cases} case{'s' if cases > 1 else ''}"
    against, threshold = found.against, _percent(found.rule.threshold)
    if found.verdict == FAIL:
        slower = sum(judgement.verdict == FAIL for judgement in judged)
        broken = sum(failure.side == "candidate" for failure in found.failures.values())
        parts = [f"{slower} of {cells} slower than {against}"] if slower or not broken else []
        parts += [f"{broken} cases that run there no longer do"] if broken else []
        return "; ".join(parts)
    if found.verdict == PASS:
        return f"{cells}, none {threshold} slower than {against}"
    open_cells = sum(judgement.verdict == AMBIGUOUS for judgement in judged)
    return (
        f"too noisy to tell whether {open_cells} of {cells} are {threshold} slower than {against}"
    )


def _item(found: Found, cell: Cell, judged: Judgement) -> Item:
    before, after = found.seconds(cell)
    return Item(
        case=cell.case,
        name=cell.phase,
        verdict=judged.verdict,
        message=_message(judged, before, after),
        figures=(
            _time(before),
            _time(after),
            *(_signed(each) for each in (judged.change, judged.low, judged.high)),
            f"±{_percent(judged.floor)}",
        ),
    )


def _message(judged: Judgement, before: float, after: float) -> str:
    change = f"{_time(before)} -> {_time(after)}, {_signed(judged.change)}"
    if judged.verdict == FAIL:
        return (
            f"{change}, at least {_signed(judged.low)}; the same code moves by up to "
            f"{_percent(judged.floor)}"
        )
    if judged.verdict == AMBIGUOUS:
        more = judged.more_pairs
        settled = (
            f"more than {MOST_PAIRS} pairs would settle it: it takes a quieter machine"
            if more is None
            else f"about {more} more pairs would settle it"
        )
        return f"{change}, at most {_signed(judged.high)}; {settled}"
    return f"{change}, at most {_signed(judged.high)}{', faster' if judged.faster else ''}"


def _failure(title: str, failure: Failed) -> Item:
    if failure.side == "candidate":
        message = f"ran on the baseline, and no longer does: {failure.status}: {failure.reason}"
        return Item(case=title, name="build", verdict=FAIL, message=message)
    where = "is new, or fails on the baseline" if failure.side == "baseline" else "cannot run here"
    message = f"{where}: {failure.status}: {failure.reason}"
    return Item(case=title, name="build", verdict=SKIPPED, message=message)


def _notes(found: Found) -> list[str]:
    judged = found.judgements
    notes = [
        f"faster: {cell.case} {cell.phase}: {_message(each, *found.seconds(cell))}"
        for cell, each in judged.items()
        if each.faster
    ]
    if not judged:
        return notes
    worst = max(judged, key=lambda cell: judged[cell].detectable)
    middle = median(each.detectable for each in judged.values())
    pairs = sorted({each.pairs for each in judged.values()})
    notes.append(
        f"{' to '.join(map(str, pairs))} pairs of fresh processes: nine times in ten, a slowdown "
        f"of {_percent(middle)} fails in the median cell, and one of "
        f"{_percent(judged[worst].detectable)} in the noisiest, {worst.case} {worst.phase}."
    )
    if found.verdict == AMBIGUOUS:
        needed = [each.pairs + each.more_pairs for each in judged.values() if each.more_pairs]
        open_cells = [each for each in judged.values() if each.verdict == AMBIGUOUS]
        if len(needed) == len(open_cells):
            # The gate doubles the number that it is given.
            notes.append(f"To settle all of it: --pairs {_even(max(needed) / 2)}.")
        notes.append(
            f"The machine's load was {found.load:.1f} on {usable_cores()} cores; "
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
