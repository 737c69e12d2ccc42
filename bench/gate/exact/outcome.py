"""Findings of the exact gate in words."""

from collections.abc import Sequence

from bench.gate.exact.comparison import Change
from bench.gate.outcome import AMBIGUOUS, FAIL, PASS, Item, Outcome


def of_changes(cases: Sequence[str], changes: Sequence[Change]) -> Outcome:
    """Return the outcome of the exact gate.

    Args:
        cases: Titles of the cases that were compared.
        changes: Figures that differ; a missing case of the baseline is one of them.
    """
    by_case: dict[str, list[str]] = {title: [] for title in cases}
    for change in changes:
        by_case.setdefault(change.case, []).append(str(change))
    items = tuple(
        Item(
            case=title,
            name="costs",
            verdict=FAIL if differences else PASS,
            message=f"{len(differences)} figures moved" if differences else "as the baseline says",
            details=tuple(differences),
            figures=(str(len(differences)), differences[0] if differences else ""),
        )
        for title, differences in by_case.items()
    )
    columns = ("figures moved", "first of them")
    if not changes:
        headline = (
            f"{len(cases)} cases cost what the baseline says, to the last call, FLOP and byte"
        )
        return Outcome(gate="exact", verdict=PASS, headline=headline, columns=columns, items=items)
    failed = sum(item.verdict == FAIL for item in items)
    return Outcome(
        gate="exact",
        verdict=FAIL,
        headline=f"{len(changes)} figures moved in {failed} of {len(cases)} cases",
        columns=columns,
        items=items,
        notes=("If this is meant: foldperf gate --bless --reason '...'",),
    )


def of_another_torch(blessed: str, running: str) -> Outcome:
    """Return the outcome where the baseline is of another torch."""
    reason = (
        f"the baseline is of torch {blessed}, this is torch {running}: operators decompose "
        "otherwise there, so that costs cannot be compared"
    )
    item = Item(case="all cases", name="costs", verdict=AMBIGUOUS, message=reason)
    return Outcome(gate="exact", verdict=AMBIGUOUS, headline=reason, items=(item,))
