"""How memory and time grow with tokens: curves, exponents, ratios."""

from collections.abc import Sequence
from functools import partial

from analysis.chapter import (
    Chapter,
    Figure,
    figure_name,
    figure_title,
    why_missing,
)
from analysis.curves import Line, Panel, Reference, draw_curves, line_of
from analysis.drawing import MOST_LINES
from analysis.quantities import Quantity, times, written
from analysis.series import Series, grouped, labels, shares
from analysis.table import IDENTITY, Cell

PEAK_MEMORY = Quantity(
    "peak_memory",
    ("peak_allocated_bytes", "peak_resident_bytes"),
    "bytes",
    "peak memory of a step",
)
STEP_TIME = Quantity("step_time", ("step_time_s",), "seconds", "time of a step")

COLUMNS = (
    *IDENTITY,
    *("tokens", "entry", "replicate", "metric", "value", "unit", "low", "high", "run_id"),
)
EXPONENT_COLUMNS = (
    *IDENTITY,
    *("metric", "exponent", "low", "high", "factor", "from_tokens", "to_tokens"),
)
_MOST_PANELS = 9
_LINES_IN_PANELS = 4
_MOST_SENTENCES = 7


def growth_chapter(
    series: Sequence[Series],
    quantity: Quantity,
    title: str,
    meaning: str,
    references: Sequence[Reference] = (),
) -> Chapter:
    """A quantity against tokens, logarithmic both ways.

    Args:
        series: All of the report.
        quantity: What is drawn.
        title: The chapter's.
        meaning: How to read it.
        references: Published lines of the same quantity, for the first figure.
    """
    lines = {id(each): line for each in series if (line := line_of(each, quantity)) is not None}
    if not lines:
        note = why_missing(quantity.label.capitalize(), quantity.metrics[0], series)
        return Chapter(quantity.name, title, meaning, notes=(note,))
    figures: list[Figure] = []
    for share in shares([each for each in series if id(each) in lines], MOST_LINES):
        # Curves have room for everything, in panels.
        found = [lines[id(each)] for each in share.everything]
        behind = () if figures else tuple(references)
        name = figure_name(quantity.name, share)
        figures += _figures(name, figure_title(title, share), quantity, found, behind)
    return Chapter(
        quantity.name,
        title,
        meaning,
        columns=COLUMNS,
        lines=tuple(each for line in lines.values() for each in table_of(line)),
        figures=tuple(figures),
    )


def _figures(
    name: str,
    title: str,
    quantity: Quantity,
    lines: Sequence[Line],
    references: tuple[Reference, ...],
) -> list[Figure]:
    """One figure of one panel where lines are few; else panels, and figures of panels."""
    panels = _panels(quantity, lines, references)
    pages = [panels[k : k + _MOST_PANELS] for k in range(0, len(panels), _MOST_PANELS)]
    found = []
    for number, page in enumerate(pages, start=1):
        there = [line for panel in page for line, _, _ in panel.lines]
        found.append(
            Figure(
                name if number == 1 else f"{name}-{number}",
                title if len(pages) == 1 else f"{title}, {number} of {len(pages)}",
                tuple(findings(quantity, there)),
                partial(draw_curves, page),
            )
        )
    return found


def _panels(
    quantity: Quantity, lines: Sequence[Line], references: tuple[Reference, ...]
) -> list[Panel]:
    if len(lines) <= MOST_LINES:
        return [Panel("", quantity, _labelled(lines), references)]
    groups = grouped(lines, lambda line: line.series.rows[0].series)
    if len(groups) == len(lines):
        # No name has a second line: they are compared with each other.
        return [Panel("", quantity, _labelled(part)) for part in _parts(lines, _LINES_IN_PANELS)]
    return [
        Panel(name, quantity, _labelled(part, named=False))
        for name, members in groups
        for part in _parts(members, MOST_LINES)
    ]


def _parts(lines: Sequence[Line], most: int) -> list[Sequence[Line]]:
    return [lines[k : k + most] for k in range(0, len(lines), most)]


def _labelled(lines: Sequence[Line], *, named: bool = True) -> tuple[tuple[Line, str, int], ...]:
    names = labels([line.series.rows[0] for line in lines], named=named)
    return tuple(zip(lines, names, range(len(lines)), strict=True))


def table_of(line: Line) -> list[tuple[Cell, ...]]:
    """The numbers behind a line, one for each record."""
    out: list[tuple[Cell, ...]] = []
    for row, _ in line.points:
        low, high = row.interval(line.metric) or (None, None)
        unit = row.record["metrics"][line.metric]["unit"]
        where = (row.tokens, row.entry, row.replicate)
        value = row.value(line.metric)
        out.append(
            (*row.identity, *where, line.metric, value, unit, low, high, row.record["run_id"])
        )
    return out


def exponents(series: Sequence[Series], quantities: Sequence[Quantity]) -> list[list[Line]]:
    """The lines of each series that has a fitted law, in the order of quantities."""
    found = []
    for each in series:
        lines = [line for quantity in quantities if (line := line_of(each, quantity)) is not None]
        if any(line.law is not None for line in lines):
            found.append(lines)
    return found


def exponent_lines(lines: Sequence[Line]) -> list[tuple[Cell, ...]]:
    """The fitted laws as numbers."""
    out: list[tuple[Cell, ...]] = []
    for line in lines:
        if line.law is not None:
            law = line.law
            low, high = law.interval or (None, None)
            numbers = (law.exponent, low, high, law.factor, law.smallest, law.largest)
            out.append((*line.series.identity, line.metric, *numbers))
    return out


def findings(quantity: Quantity, lines: Sequence[Line]) -> list[str]:
    """Sentences on the lines of a figure: each one's growth, and their ratios."""
    if len(lines) > _MOST_SENTENCES:
        return _extremes(quantity, lines)
    sentences = [_growth(quantity, line) for line in lines]
    return [*sentences, *_ratios(quantity, lines)]


def _growth(quantity: Quantity, line: Line) -> str:
    first, last = (written(line.values[k], quantity.kind) for k in (0, -1))
    what = f"{line.label}: {quantity.label}"
    if line.law is None:
        text = f"{what} is {last} at {line.tokens[-1]:.0f} tokens"
    else:
        text = (
            f"{what} goes from {first} at {line.tokens[0]:.0f} tokens to {last} at "
            f"{line.tokens[-1]:.0f}, growing as {line.law} from {line.law.smallest:.0f} tokens on"
        )
    for tokens, status in line.failed:
        text += f"; at {tokens:.0f} tokens the case ended as {status}"
    return text + "."


def _extremes(quantity: Quantity, lines: Sequence[Line]) -> list[str]:
    """Many lines in one sentence: the slowest growth and the fastest."""
    grown = [(line.law.exponent, line.label, line.law) for line in lines if line.law is not None]
    if not grown:
        return []
    (_, slow, least), (_, fast, most) = min(grown)[:3], max(grown)[:3]
    return [
        f"Of {len(lines)} series {quantity.label} grows least with {slow} ({least}) and most "
        f"with {fast} ({most}); all exponents are in exponents.csv."
    ]


def _ratios(quantity: Quantity, lines: Sequence[Line]) -> list[str]:
    """How much more the series that takes most takes than each other, at sizes they share."""
    shared = {
        (id(a), id(b)): max(set(a.tokens) & set(b.tokens), default=None)
        for a in lines
        for b in lines
        if a is not b
    }
    bases = [
        (-len(others), sum(ratio < 1 for ratio in others), k)
        for k, base in enumerate(lines)
        if (
            others := [
                base.at(size) / other.at(size)
                for other in lines
                if other is not base and (size := shared[id(base), id(other)]) is not None
            ]
        )
    ]
    if not bases:
        return []
    base = lines[min(bases)[2]]
    told = [
        f"{line.label} {times(base.at(size) / line.at(size))} at {size:.0f} tokens"
        for line in lines
        if line is not base and (size := shared[id(base), id(line)]) is not None
    ]
    return [f"{quantity.label.capitalize()} of {base.label} over that of {', of '.join(told)}."]
