"""Curves: a quantity over tokens, one line for each series, with fitted power laws."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.drawing import (
    COLUMN,
    LEGEND_ROW,
    PAGE,
    legend_above,
    legend_rows,
    line_style,
    paper_style,
    plot_text,
    subplots,
)
from analysis.guides import Curve, draw_guides, label_sizes, label_values
from analysis.palette import LineStyle
from analysis.quantities import Quantity, Unit, unit_of
from analysis.scaling import PowerLaw, fit_power_law
from analysis.series import Series
from analysis.table import Row

# Characters of a legend line in a single panel and in several, and those that an exponent takes.
_WRAP = 56
_WRAP_IN_PANELS = 36
_LAW = 17
_MAX_ENTRIES = 3
# Least height of axes, in those of their legend.
_AXES_OF_LEGEND = 4.5
_WIDEST_BAND = 4
_GREY = "0.62"


@dataclass(frozen=True, slots=True)
class Line:
    """Line of a figure: one metric of one series over tokens.

    Attributes:
        label: Name in the legend.
        series: Series of the records.
        metric: Name of the metric.
        tokens: Sizes, ascending.
        values: Median over the records of each size, in the records' unit.
        points: Row and value of every record.
        failed: Sizes at which every case failed, with the status of one.
        law: Fitted power law; None if there is none, see `fit_power_law`.
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
        """Return the value at one of the line's sizes."""
        return self.values[self.tokens.index(tokens)]


@dataclass(frozen=True, slots=True)
class Reference:
    """Published line, plotted in grey.

    Attributes:
        label: Name in the legend, marked as published.
        points: (tokens, value) pairs, in the records' unit.
        failed: Sizes at which the published case failed, with the status.
    """

    label: str
    points: tuple[tuple[float, float], ...]
    failed: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """Pair of axes of a figure.

    Attributes:
        title: Title above the panel; may be empty.
        quantity: Quantity of the vertical axis.
        lines: (line, label, index of its line style) triples.
        references: Published lines, plotted behind the others.
    """

    title: str
    quantity: Quantity
    lines: tuple[tuple[Line, str, int], ...]
    references: tuple[Reference, ...] = ()


def line_of(series: Series, quantity: Quantity) -> Line | None:
    """Return the line of a series, or None if it has no value at any size."""
    rows = series.ok_rows()
    metric = next((m for m in quantity.metrics if any(r.value(m) is not None for r in rows)), None)
    if metric is None:
        return None
    points = [(row, float(value)) for row in rows if (value := row.value(metric)) is not None]
    medians = pd.DataFrame([(row.tokens, v) for row, v in points]).groupby(0)[1].median()
    failed = {row.tokens: row.status for row in series.rows if row.status != "ok"}
    return Line(
        series.label,
        series,
        metric,
        tuple(medians.index),
        tuple(medians),
        tuple(points),
        tuple((n, status) for n, status in sorted(failed.items()) if n not in medians.index),
        fit_power_law([(row.tokens, v) for row, v in points]),
    )


def draw_curves(panels: Sequence[Panel]) -> Any:
    """Return a matplotlib figure of one panel in a column's width, or of several across the page.

    Each panel has its own legend with exponents; if no panel has a fit, all share one legend.
    """
    alone = len(panels) == 1
    shared = not alone and not any(panel.quantity.fitted for panel in panels)
    wrap = _WRAP if alone else 0 if shared else _WRAP_IN_PANELS
    entries = max(_rows(panel, wrap) for panel in panels)
    # A long legend has two columns, and the figure is widened for them.
    crowded = alone and entries > _MAX_ENTRIES
    legend = 0.0 if shared else LEGEND_ROW * (-(-entries // 2) if crowded else entries)
    # Legends take less than a fifth.
    height = max(2.1, _AXES_OF_LEGEND * legend) + legend
    width = PAGE if crowded else COLUMN if alone else PAGE
    named = {label for panel in panels for _, label, _ in panel.lines}
    with paper_style():
        rows = legend_rows(list(named), width) if shared else 0
        figure, axes = subplots(len(panels), height, width, rows)
        for panel, panel_axes in zip(panels, axes, strict=True):
            _draw_panel(panel_axes, panel, wrap)
            if not (alone or shared):
                # Above the axes, where no curve can cross the legend.
                panel_axes.legend(
                    loc="lower left",
                    bbox_to_anchor=(0, 1),
                    borderaxespad=0.2,
                    title=plot_text(panel.title),
                    alignment="left",
                )
        if alone or shared:
            handles = {
                label: handle for panel_axes in axes for handle, label in _handles(panel_axes)
            }
            legend_above(figure, list(handles.values()), 0 if shared else 2 if crowded else 1)
    return figure


def _rows(panel: Panel, wrap: int) -> int:
    """Return the number of text lines in a panel's legend, the title included."""
    labels = [_label(panel, line, label, wrap) for line, label, _ in panel.lines]
    return (
        sum(label.count("\n") + 1 for label in labels) + len(panel.references) + bool(panel.title)
    )


def _label(panel: Panel, line: Line, label: str, wrap: int) -> str:
    """Return a label, wrapped to leave room for the exponent that follows."""
    followed = panel.quantity.fitted and line.law is not None
    return plot_text(label, wrap - _LAW if wrap and followed else wrap)


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
        _draw_line(axes, line, _label(panel, line, label, wrap), line_style(number), unit, quantity)
    for number, reference in enumerate(panel.references):
        _draw_reference(axes, reference, number, unit, wrap)
    sizes = {n for line, _, _ in panel.lines for n in line.tokens}
    sizes |= {n for reference in panel.references for n, _ in reference.points}
    label_sizes(axes, sorted(sizes))
    if quantity.logarithmic:
        label_values(axes)
    else:
        axes.set_ylim(0, axes.get_ylim()[1] * 1.05)
    # Bands and guides must not widen the axes.
    axes.autoscale(enable=False)
    if quantity.fitted:
        for line, _, number in panel.lines:
            _draw_band(axes, line, line_style(number), unit)
        curves = _plotted_curves(panel, unit)
        # Without a line there is no slope to compare with.
        if any(len(sizes) > 1 for sizes, _ in curves):
            draw_guides(axes, curves)
    axes.set_xlabel("tokens N")
    axes.set_ylabel(plot_text(f"{quantity.label} ({unit.name})", 26))


def _plotted_curves(panel: Panel, unit: Unit) -> list[Curve]:
    curves: list[Curve] = [(line.tokens, line.values) for line, _, _ in panel.lines]
    for reference in panel.references:
        curves.append(([n for n, _ in reference.points], [value for _, value in reference.points]))
    return [(sizes, [value / unit.factor for value in values]) for sizes, values in curves]


def _draw_line(
    axes: Any, line: Line, label: str, style: LineStyle, unit: Unit, quantity: Quantity
) -> None:
    scaled = [value / unit.factor for value in line.values]
    law = line.law if quantity.fitted else None
    legend = label if law is None else _with_law(label, law)
    axes.plot(
        line.tokens,
        scaled,
        linestyle=style.dashes,
        color=style.colour,
        marker=style.marker,
        label=legend,
    )
    if len(line.points) > len(line.tokens):
        xs, ys = zip(*((row.tokens, v / unit.factor) for row, v in line.points), strict=True)
        axes.plot(xs, ys, ".", color=style.colour, alpha=0.5, ms=2.5)
    for row, _ in line.points:
        if interval := row.interval(line.metric):
            bounds = [bound / unit.factor for bound in interval]
            axes.plot([row.tokens] * 2, bounds, "-", color=style.colour, lw=0.7)
    for tokens, status in line.failed:
        # A cross at the height of the last successful size.
        axes.plot([tokens], [scaled[-1]], "x", color=style.colour, ms=6, mew=1.5)
        axes.annotate(
            status,
            (tokens, scaled[-1]),
            xytext=(4, 3),
            textcoords="offset points",
            fontsize=6,
            color=style.colour,
        )


def _draw_band(axes: Any, line: Line, style: LineStyle, unit: Unit) -> None:
    """Shade the interval of the fitted law, unless it is too wide to be informative."""
    law = line.law
    if law is None or not law.level:
        return
    sizes = np.geomspace(law.smallest, law.largest, 24)
    low, high = np.array([law.band(float(n)) for n in sizes]).T / unit.factor
    if (high / low).max() < _WIDEST_BAND:
        axes.fill_between(sizes, low, high, color=style.colour, alpha=0.15, lw=0)


def _draw_reference(axes: Any, reference: Reference, number: int, unit: Unit, wrap: int) -> None:
    style = line_style(number)
    xs = [n for n, _ in reference.points]
    ys = [value / unit.factor for _, value in reference.points]
    axes.plot(
        *(xs, ys),
        linestyle=style.dashes,
        color=_GREY,
        marker=style.marker,
        markerfacecolor="white",
        lw=0.8,
        ms=3,
        zorder=1,
        label=plot_text(reference.label, wrap),
    )
    for tokens, _ in reference.failed[:1]:
        axes.plot([tokens], [ys[-1]], "x", color=_GREY, ms=4, mew=1, zorder=1)


def _with_law(label: str, law: PowerLaw) -> str:
    exponent = f"{law.exponent:.2f} \\pm {law.margin:.2f}"
    return f"{label}: $N^{{\\,{exponent}}}$, $N \\geq {law.smallest:.0f}$"
