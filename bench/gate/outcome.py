"""What a gate found, in the one shape that the text, the summary and the JUnit file are made of."""

from dataclasses import dataclass

PASS, FAIL, AMBIGUOUS, SKIPPED = "PASS", "FAIL", "AMBIGUOUS", "SKIPPED"
# The exit status of each verdict.
STATUS = {PASS: 0, FAIL: 1, AMBIGUOUS: 3}
_SHOWN = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One thing that was judged.

    Attributes:
        case: Title of the case.
        name: What of it, as in a phase.
        verdict: PASS, FAIL, AMBIGUOUS, or SKIPPED for what could not be judged.
        message: One line: what was found.
        details: Further lines.
        figures: A table's row, one text for each of the outcome's columns.
    """

    case: str
    name: str
    verdict: str
    message: str
    details: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a gate found.

    Attributes:
        gate: exact or timing.
        verdict: PASS, FAIL or AMBIGUOUS.
        headline: One line: the verdict and why.
        columns: Names of the figures of each item.
        items: What was judged.
        notes: Lines on how far to trust it, and what to do.
    """

    gate: str
    verdict: str
    headline: str
    columns: tuple[str, ...] = ()
    items: tuple[Item, ...] = ()
    notes: tuple[str, ...] = ()

    def remarkable(self) -> list[Item]:
        """The items that did not pass, failures first."""
        order = (FAIL, AMBIGUOUS, SKIPPED)
        return [item for verdict in order for item in self.items if item.verdict == verdict]

    def text(self) -> str:
        """For a terminal. Beside failures, what is ambiguous is only counted."""
        lines = [f"{self.verdict}: {self.headline}"]
        shown = [
            item
            for item in self.remarkable()
            if item.verdict != AMBIGUOUS or self.verdict == AMBIGUOUS
        ]
        for item in shown:
            where = " ".join(filter(None, (item.case, item.name)))
            lines.append(f"{item.verdict} {where}: {item.message}")
            lines += [f"  {detail}" for detail in item.details[:_SHOWN]]
            if len(item.details) > _SHOWN:
                lines.append(f"  and {len(item.details) - _SHOWN} more; --json lists all")
        if hidden := len(self.remarkable()) - len(shown):
            lines.append(f"{hidden} more are AMBIGUOUS; --json lists all")
        return "\n".join([*lines, *self.notes])
