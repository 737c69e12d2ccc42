"""Outcome of a gate, from which the text, the summary and the JUnit file are written."""

from dataclasses import dataclass

PASS, FAIL, AMBIGUOUS, SKIPPED = "PASS", "FAIL", "AMBIGUOUS", "SKIPPED"
# The exit status of each verdict.
STATUS = {PASS: 0, FAIL: 1, AMBIGUOUS: 3}
_SHOWN = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """Verdict on one figure or case.

    Attributes:
        case: Title of the case.
        name: Part of the case, such as a phase.
        verdict: PASS, FAIL, AMBIGUOUS, or SKIPPED if there is nothing to compare.
        message: Finding in one line.
        details: Further lines.
        figures: Row of the table, a text for each column of the outcome.
    """

    case: str
    name: str
    verdict: str
    message: str
    details: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Outcome of a gate.

    Attributes:
        gate: exact or timing.
        verdict: PASS, FAIL or AMBIGUOUS.
        headline: Verdict and its reason in one line.
        columns: Names of the figures of each item.
        items: Verdicts on figures or cases.
        notes: Resolution of the verdict and next steps, in lines.
    """

    gate: str
    verdict: str
    headline: str
    columns: tuple[str, ...] = ()
    items: tuple[Item, ...] = ()
    notes: tuple[str, ...] = ()

    def remarkable(self) -> list[Item]:
        """Return the items that did not pass, failures first."""
        order = (FAIL, AMBIGUOUS, SKIPPED)
        return [item for verdict in order for item in self.items if item.verdict == verdict]

    def text(self) -> str:
        """Return text for a terminal. If there are failures, ambiguous items are only counted."""
        lines = [f"{self.verdict}: {self.headline}"]
        listed = [
            item
            for item in self.remarkable()
            if item.verdict != AMBIGUOUS or self.verdict == AMBIGUOUS
        ]
        for item in listed:
            where = " ".join(filter(None, (item.case, item.name)))
            lines.append(f"{item.verdict} {where}: {item.message}")
            lines += [f"  {detail}" for detail in item.details[:_SHOWN]]
            if len(item.details) > _SHOWN:
                lines.append(f"  and {len(item.details) - _SHOWN} more; --json lists all")
        if hidden := len(self.remarkable()) - len(listed):
            lines.append(f"{hidden} more are AMBIGUOUS; --json lists all")
        return "\n".join([*lines, *self.notes])
