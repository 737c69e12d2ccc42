"""Curves: a quantity against tokens, one line for each series, with fitted power laws."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from analysis.drawing import (
    COLUMN,
    LEGEND_ROW,
    PAGE,
    Look,
    legend_above,
    legend_rows,
    look,
    plain,
    styled,
    subplots,
)
from analysis.guides import Curve, draw_guides, label_sizes, label_values
from analysis.quantities import Quantity, Unit, unit_of
from analysis.scaling import PowerLaw, fit_power_law
from analysis.series import Series
from analysis.table import Row

# Characters of a legend's line, alone and in panels, and those that an exponent takes.
_WRAP = 56
_WRAP_IN_PANELS = 36
_LAW = 17
_MOST_ENTRIES = 8
_WIDEST_BAND = 4
_GREY = "0.62"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a figure.

    Attributes:
        label: Its name in the legend.
        series: Whose it is.
        metric: What it shows.
        tokens: Sizes, ascending.
        values: Median over the records of each size, in the records' unit.
        points: Every record's row and value.
        failed: Sizes at which no case ended well, with the status of one.
        law: The fitted power law.
    """

    label: str
    series: Series
    metric: str
    tokens: tuple[float, ...]
    values: tuple[float, ...]
    points: tuple[tuple[Row, float], ...]
    failed: tuple[tuple[float, str], ...]
    law: PowerLaw | None

    def at(self, tokens: float) -> float:
        """Its value at one of its sizes."""
        return self.values[self.tokens.index(tokens)]


@dataclass(frozen=True, slots=True)
class Reference:
    """A line of somebody else's, drawn in grey.

    Attributes:
        label: Its name in the legend, which says that it is published.
        points: (tokens, value), in the records' unit.
        failed: Sizes that were tried and did not end well, with the status.
    """

    label: str
    points: tuple[tuple[float, float], ...]
    failed: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: Above it; empty if it needs none.
        quantity: What its vertical axis shows.
        lines: Its lines, each with its label and the number of its look.
        references: What is drawn behind them.
    """

    title: str
    quantity: Quantity
    lines: tuple[tuple[Line, str, int], ...]
    references: tuple[Reference, ...] = ()


def line_of(series: Series, quantity: Quantity) -> Line | None:
    """The line of a series, or None if it has no value at any size."""
    rows = series.well()
    metric = next((m for m in quantity.metrics if any(r.value(m) is not None for r in rows)), None)
    if metric is None:
        return None
    points = [(row, float(value)) for row in rows if (value := row.value(metric)) is not None]
    sizes = sorted({row.tokens for row, _ in points})
    failed = {row.tokens: row.status for row in series.rows if row.status != "ok"}
    return Line(
        series.label,
        series,
        metric,
        tuple(sizes),
        tuple(median(v for row, v in points if row.tokens == size) for size in sizes),
        tuple(points),
        tuple((n, status) for n, status in sorted(failed.items()) if n not in sizes),
        fit_power_law([(row.tokens, v) for row, v in points]),
    )


def draw_curves(panels: Sequence[Panel]) -> Any:
    """A matplotlib figure of one panel in a column's width, or of several across the page.

    Each panel has its own legend, with its exponents; where none is fitted, all share one.
    """
    alone = len(panels) == 1
    shared = not alone and not any(panel.quantity.fitted for panel in panels)
    wrap = _WRAP if alone else 0 if shared else _WRAP_IN_PANELS
    entries = max(_rows(panel, wrap) for panel in panels)
    # A long legend takes two columns, and the figure the width for them.
    crowded = alone and entries > _MOST_ENTRIES
    height = 2.1 + (0 if shared else LEGEND_ROW * (-(-entries // 2) if crowded else entries))
    width = 0.75 * PAGE if crowded else COLUMN if alone else PAGE
    named = {label for panel in panels for _, label, _ in panel.lines}
    with styled():
        rows = legend_rows(list(named), width) if shared else 0
        figure, axes = subplots(len(panels), height, width, rows)
        for panel, each in zip(panels, axes, strict=True):
            _draw_panel(each, panel, wrap)
            if not (alone or shared):
                # Above the axes: wherever a curve goes, it does not run through the legend.
                each.legend(
                    loc="lower left",
                    bbox_to_anchor=(0, 1),
                    borderaxespad=0.2,
                    title=plain(panel.title),
                    alignment="left",
                )
        if alone or shared:
            handles = {label: handle for each in axes for handle, label in _handles(each)}
            legend_above(figure, list(handles.values()), 0 if shared else 2 if crowded else 1)
    return figure


def _rows(panel: Panel, wrap: int) -> int:
    """Lines of text in a panel's legend, the panel's title among them."""
    labels = [_label(panel, line, label, wrap) for line, label, _ in panel.lines]
    return (
        sum(label.count("\n") + 1 for label in labels) + len(panel.references) + bool(panel.title)
    )


def _label(panel: Panel, line: Line, label: str, wrap: int) -> str:
    """A label, wrapped so that the exponent that follows has room."""
    followed = panel.quantity.fitted and line.law is not None
    return plain(label, wrap - _LAW if wrap and followed else wrap)


def _handles(axes: Any) -> list[tuple[Any, str]]:
    return list(zip(*axes.get_legend_handles_labels(), strict=True))


def _draw_panel(axes: Any, panel: Panel, wrap: int) -> None:
    quantity = panel.quantity
    unit = unit_of(
        quantity.kind,
        [
            *(value for line, _, _ in panel.lines for value in line.values),
            *(value for reference in panel.references for _, value in reference.points),
        ],
    )
    axes.set_xscale("log")
    if quantity.logarithmic:
        axes.set_yscale("log")
    for line, label, number in panel.lines:
        _draw_line(axes, line, _label(panel, line, label, wrap), look(number), unit, quantity)
    for number, reference in enumerate(panel.references):
        _draw_reference(axes, reference, number, unit, wrap)
    sizes = {n for line, _, _ in panel.lines for n in line.tokens}
    sizes |= {n for reference in panel.references for n, _ in reference.points}
    label_sizes(axes, sorted(sizes))
    if quantity.logarithmic:
        label_values(axes)
    else:
        axes.set_ylim(0, axes.get_ylim()[1] * 1.05)
    # What follows must not widen the axes.
    axes.autoscale(enable=False)
    if quantity.fitted:
        for line, _, number in panel.lines:
            _draw_band(axes, line, look(number), unit)
        draw_guides(axes, _drawn(panel, unit))
    axes.set_xlabel("tokens N")
    axes.set_ylabel(plain(f"{quantity.label} ({unit.name})", 26))


def _drawn(panel: Panel, unit: Unit) -> list[Curve]:
    curves: list[Curve] = [(line.tokens, line.values) for line, _, _ in panel.lines]
    for each in panel.references:
        curves.append(([n for n, _ in each.points], [value for _, value in each.points]))
    return [(sizes, [value / unit.factor for value in values]) for sizes, values in curves]


def _draw_line(
    axes: Any, line: Line, label: str, how: Look, unit: Unit, quantity: Quantity
) -> None:
    scaled = [value / unit.factor for value in line.values]
    law = line.law if quantity.fitted else None
    said = label if law is None else _with_law(label, law)
    axes.plot(
        line.tokens, scaled, linestyle=how.dashes, color=how.colour, marker=how.marker, label=said
    )
    if len(line.points) > len(line.tokens):
        xs, ys = zip(*((row.tokens, v / unit.factor) for row, v in line.points), strict=True)
        axes.plot(xs, ys, ".", color=how.colour, alpha=0.5, ms=2.5)
    for row, _ in line.points:
        if interval := row.interval(line.metric):
            bounds = [bound / unit.factor for bound in interval]
            axes.plot([row.tokens] * 2, bounds, "-", color=how.colour, lw=0.7)
    for tokens, status in line.failed:
        # A terminal cross at the height of the last good point.
        axes.plot([tokens], [scaled[-1]], "x", color=how.colour, ms=6, mew=1.5)
        axes.annotate(
            status,
            (tokens, scaled[-1]),
            xytext=(4, 3),
            textcoords="offset points",
            fontsize=6,
            color=how.colour,
        )


def _draw_band(axes: Any, line: Line, how: Look, unit: Unit) -> None:
    """Shades the interval of the fitted law, unless it is so wide that it says nothing."""
    law = line.law
    if law is None or not law.level:
        return
    sizes = np.geomspace(law.smallest, law.largest, 24)
    low, high = np.array([law.band(float(n)) for n in sizes]).T / unit.factor
    if (high / low).max() < _WIDEST_BAND:
        axes.fill_between(sizes, low, high, color=how.colour, alpha=0.15, lw=0)


def _draw_reference(axes: Any, reference: Reference, number: int, unit: Unit, wrap: int) -> None:
    how = look(number)
    xs = [n for n, _ in reference.points]
    ys = [value / unit.factor for _, value in reference.points]
    axes.plot(
        *(xs, ys),
        linestyle=how.dashes,
        color=_GREY,
        marker=how.marker,
        markerfacecolor="white",
        lw=0.8,
        ms=3,
        zorder=1,
        label=plain(reference.label, wrap),
    )
    for tokens, _ in reference.failed[:1]:
        axes.plot([tokens], [ys[-1]], "x", color=_GREY, ms=4, mew=1, zorder=1)


def _with_law(label: str, law: PowerLaw) -> str:
    spread = "" if law.margin is None else f" \\pm {law.margin:.2f}"
    return f"{label}: $N^{{\\,{law.exponent:.2f}{spread}}}$, $N \\geq {law.smallest:.0f}$"
