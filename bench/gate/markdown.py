"""Outcome of a gate as Markdown, for a pull request or a job's summary."""

from collections.abc import Iterable

from bench.gate.outcome import PASS, Item, Outcome

_MARKS = {"PASS": "✅", "FAIL": "❌", "AMBIGUOUS": "❔", "SKIPPED": "⏭️"}
# Details shown of a failing case; the JUnit file has all.
_DETAILS = 20


def markdown(outcome: Outcome) -> str:
    """Return a heading, the items that did not pass, and a collapsed table of the others."""
    lines = [f"### {_MARKS[outcome.verdict]} foldperf {outcome.gate} gate: {outcome.verdict}", ""]
    lines += [_inline(outcome.headline), ""]
    remarkable = outcome.remarkable()
    if remarkable:
        lines += [*_table(outcome, remarkable), ""]
    for item in remarkable:
        if item.details:
            lines += [f"**{_inline(item.case)}**", "", *_bullets(item.details), ""]
    lines += [f"{_inline(note)}\n" for note in outcome.notes]
    passed = [item for item in outcome.items if item.verdict == PASS]
    if passed:
        lines += ["<details>", f"<summary>{len(passed)} passed</summary>", ""]
        lines += [*_table(outcome, passed), "", "</details>", ""]
    return "\n".join(lines)


def _table(outcome: Outcome, items: Iterable[Item]) -> Iterable[str]:
    header = ("", "case", "what", *outcome.columns)
    yield _row(header)
    yield _row(["--"] * len(header))
    for item in items:
        # An item without figures has its message in place of the first.
        figures = item.figures or (item.message,)
        padded = [*figures, *[""] * (len(outcome.columns) - len(figures))]
        yield _row([f"{_MARKS[item.verdict]} {item.verdict}", item.case, item.name, *padded])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(_inline(cell) for cell in cells)} |"


def _bullets(details: tuple[str, ...]) -> Iterable[str]:
    yield from (f"- {_inline(detail)}" for detail in details[:_DETAILS])
    if len(details) > _DETAILS:
        yield f"- and {len(details) - _DETAILS} more"


def _inline(text: str) -> str:
    """Return text as one line with Markdown and HTML escaped."""
    text = " ".join(text.split())
    for mark in "\\`*_|[]#":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("<", "&lt;").replace(">", "&gt;")
