"""Growth of memory and time with tokens: curves, exponents, ratios."""

from collections.abc import Iterable, Sequence
from functools import partial

import pandas as pd

from analysis.chapter import (
    Chapter,
    Figure,
    figure_name,
    figure_title,
    missing_note,
)
from analysis.curves import Line, Panel, Reference, draw_curves, line_of
from analysis.drawing import MAX_LINES
from analysis.nested import metric_values
from analysis.quantities import Quantity, format_ratio, format_value
from analysis.series import Series, grouped, labels, shares
from analysis.table import IDENTITY, stacked

PEAK_MEMORY = Quantity(
    "peak_memory",
    ("peak_allocated_bytes", "peak_resident_bytes"),
    "bytes",
    "peak memory",
    of_device=True,
)
STEP_TIME = Quantity("step_time", ("step_time_s",), "seconds", "step time")

COLUMNS = (
    *IDENTITY,
    *("tokens", "entry", "replicate", "metric", "value", "unit", "low", "high", "run_id"),
)
EXPONENT_COLUMNS = (
    *IDENTITY,
    *("metric", "exponent", "low", "high", "factor", "from_tokens", "to_tokens"),
)
_CASE = ("entry", "replicate")
_MAX_PANELS = 9
_LINES_IN_PANELS = 4
_MAX_SENTENCES = 7


def growth_chapter(
    series: Sequence[Series],
    quantity: Quantity,
    title: str,
    meaning: str,
    references: Sequence[Reference] = (),
) -> Chapter:
    """Return the chapter of a quantity over tokens, on logarithmic axes.

    Args:
        series: All series of the report.
        quantity: Quantity to plot.
        title: Title of the chapter.
        meaning: Explanation of the figures.
        references: Published lines of the same quantity, for the first figure.
    """
    lines = {id(s): line for s in series if (line := line_of(s, quantity)) is not None}
    if not lines:
        note = missing_note(quantity.label.capitalize(), quantity.metrics[0], series)
        return Chapter(quantity.name, title, meaning, notes=(note,))
    figures: list[Figure] = []
    plotted = [s for s in series if id(s) in lines]
    on_host = [s for s in plotted if quantity.of_device and s.is_of_host]
    for share in shares([s for s in plotted if s not in on_host], MAX_LINES):
        # No series is left out: curves are split into panels instead.
        figure_lines = [lines[id(s)] for s in share.all_series]
        behind = () if figures else tuple(references)
        name = figure_name(quantity.name, share)
        figures += _figures(name, figure_title(title, share), quantity, figure_lines, behind)
    if on_host:
        # Memory of a host's pipeline is not comparable with that of a model's step.
        host_lines = [lines[id(s)] for s in on_host]
        figures += _figures(f"{quantity.name}-host", f"{title}: host", quantity, host_lines, ())
    return Chapter(
        quantity.name,
        title,
        meaning,
        table=values_of(lines.values()),
        figures=tuple(figures),
    )


def _figures(
    name: str,
    title: str,
    quantity: Quantity,
    lines: Sequence[Line],
    references: tuple[Reference, ...],
) -> list[Figure]:
    """Return one figure of one panel if there are few lines, else one or more of panels."""
    panels = _panels(quantity, lines, references)
    pages = [panels[k : k + _MAX_PANELS] for k in range(0, len(panels), _MAX_PANELS)]
    figures = []
    for number, page in enumerate(pages, start=1):
        page_lines = [line for panel in page for line, _, _ in panel.lines]
        figures.append(
            Figure(
                name if number == 1 else f"{name}-{number}",
                title if len(pages) == 1 else f"{title}, {number} of {len(pages)}",
                tuple(findings(quantity, page_lines)),
                partial(draw_curves, page),
            )
        )
    return figures


def _panels(
    quantity: Quantity, lines: Sequence[Line], references: tuple[Reference, ...]
) -> list[Panel]:
    if len(lines) <= MAX_LINES:
        return [Panel("", quantity, _labelled(lines), references)]
    groups = grouped(lines, lambda line: line.series.rows[0].series)
    if len(groups) == len(lines):
        # Every line has a name of its own: lines are compared with each other.
        return [Panel("", quantity, _labelled(part)) for part in _parts(lines, _LINES_IN_PANELS)]
    return [
        Panel(name, quantity, _labelled(part, named=False))
        for name, members in groups
        for part in _parts(members, MAX_LINES)
    ]


def _parts(lines: Sequence[Line], most: int) -> list[Sequence[Line]]:
    return [lines[k : k + most] for k in range(0, len(lines), most)]


def _labelled(lines: Sequence[Line], *, named: bool = True) -> tuple[tuple[Line, str, int], ...]:
    names = labels([line.series.rows[0] for line in lines], named=named)
    return tuple(zip(lines, names, range(len(lines)), strict=True))


def values_of(lines: Iterable[Line]) -> pd.DataFrame:
    """Return the numbers of lines, a row for each record."""
    tables = [
        metric_values(line.series.select(row for row, _ in line.points), [line.metric], _CASE)
        for line in lines
    ]
    return stacked(tables, COLUMNS)


def exponents(series: Sequence[Series], quantities: Sequence[Quantity]) -> list[list[Line]]:
    """Return the lines of each series that has a fitted law, in the order of `quantities`."""
    fitted = []
    for s in series:
        lines = [line for quantity in quantities if (line := line_of(s, quantity)) is not None]
        if any(line.law is not None for line in lines):
            fitted.append(lines)
    return fitted


def exponent_table(lines: Iterable[Line]) -> pd.DataFrame:
    """Return the fitted laws, a row each."""
    laws = [
        (
            *(*line.series.identity, line.metric, law.exponent),
            *(*law.interval, law.factor, law.smallest, law.largest),
        )
        for line in lines
        if (law := line.law) is not None
    ]
    return pd.DataFrame(laws, columns=[*EXPONENT_COLUMNS])


def findings(quantity: Quantity, lines: Sequence[Line]) -> list[str]:
    """Return sentences on the growth of a figure's lines and on their ratios."""
    if len(lines) > _MAX_SENTENCES:
        return _extremes(quantity, lines)
    sentences = [_growth(quantity, line) for line in lines]
    return [*sentences, *_ratios(quantity, lines)]


def _growth(quantity: Quantity, line: Line) -> str:
    first_value, last = (format_value(line.values[k], quantity.kind) for k in (0, -1))
    subject = f"{line.label}: {quantity.label}"
    if line.law is None:
        text = f"{subject} is {last} at {line.tokens[-1]:.0f} tokens"
    else:
        text = (
            f"{subject} goes from {first_value} at {line.tokens[0]:.0f} tokens to {last} at "
            f"{line.tokens[-1]:.0f}, growing as {line.law} from {line.law.smallest:.0f} tokens on"
        )
    for tokens, status in line.failed:
        text += f"; at {tokens:.0f} tokens the case ended as {status}"
    return text + "."


def _extremes(quantity: Quantity, lines: Sequence[Line]) -> list[str]:
    """Return one sentence on many lines: the slowest growth and the fastest."""
    grown = [(line.law.exponent, line.label, line.law) for line in lines if line.law is not None]
    if not grown:
        return []
    (_, slow, least), (_, fast, most) = min(grown)[:3], max(grown)[:3]
    return [
        f"Of {len(lines)} series {quantity.label} grows least with {slow} ({least}) and most "
        f"with {fast} ({most}); all exponents are in exponents.csv."
    ]


def _ratios(quantity: Quantity, lines: Sequence[Line]) -> list[str]:
    """Return a sentence on the ratios of the largest series to the others, at shared sizes."""
    shared = {
        (id(a), id(b)): max(set(a.tokens) & set(b.tokens), default=None)
        for a in lines
        for b in lines
        if a is not b
    }
    bases = [
        (-len(ratios), sum(ratio < 1 for ratio in ratios), k)
        for k, base in enumerate(lines)
        if (
            ratios := [
                base.at(size) / other.at(size)
                for other in lines
                if other is not base and (size := shared[id(base), id(other)]) is not None
            ]
        )
    ]
    if not bases:
        return []
    base = lines[min(bases)[2]]
    comparisons = [
        f"{format_ratio(base.at(size) / line.at(size))} that of {line.label} at {size:.0f} tokens"
        for line in lines
        if line is not base and (size := shared[id(base), id(line)]) is not None
    ]
    label = quantity.label.capitalize()
    return [f"{label} of {base.label} is {', '.join(comparisons)}."]
