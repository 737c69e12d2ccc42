"""The exact gate's findings in words."""

from collections.abc import Sequence

from bench.gate.exact.comparison import Change
from bench.gate.outcome import AMBIGUOUS, FAIL, PASS, Item, Outcome


def of_changes(cases: Sequence[str], changes: Sequence[Change]) -> Outcome:
    """The exact gate's outcome.

    Args:
        cases: Titles of the cases that were compared.
        changes: What moved; a case of the baseline that is gone is among them.
    """
    by_case: dict[str, list[str]] = {title: [] for title in cases}
    for change in changes:
        by_case.setdefault(change.case, []).append(str(change))
    items = tuple(
        Item(
            case=title,
            name="costs",
            verdict=FAIL if moved else PASS,
            message=f"{len(moved)} figures moved" if moved else "as the baseline says",
            details=tuple(moved),
            figures=(str(len(moved)), moved[0] if moved else ""),
        )
        for title, moved in by_case.items()
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


def of_another_torch(theirs: str, ours: str) -> Outcome:
    """The exact gate's outcome where the baseline speaks of another torch."""
    reason = (
        f"the baseline is of torch {theirs}, this is torch {ours}: operators decompose otherwise "
        "there, so that costs cannot be compared"
    )
    item = Item(case="all cases", name="costs", verdict=AMBIGUOUS, message=reason)
    return Outcome(gate="exact", verdict=AMBIGUOUS, headline=reason, items=(item,))
