"""Chapters of rates, utilization and energy over tokens."""

from collections.abc import Sequence
from functools import partial

from analysis.chapter import (
    Chapter,
    Figure,
    figure_name,
    figure_note,
    figure_title,
    missing_note,
)
from analysis.curves import Line, Panel, draw_curves, line_of
from analysis.drawing import MAX_LINES
from analysis.growth import values_of
from analysis.quantities import Quantity, format_value
from analysis.series import Series, Share, labels, shares


def _quantity(
    name: str, metric: str, kind: str, label: str, logarithmic: bool = False, fitted: bool = False
) -> Quantity:
    return Quantity(name, (metric,), kind, label, logarithmic, fitted)


UTILIZATION = (
    _quantity("utilization", "achieved_flops", "flops", "model FLOP rate", logarithmic=True),
    _quantity("utilization", "model_flop_utilization", "share", "model FLOP utilization"),
    _quantity("utilization", "hardware_flop_utilization", "share", "hardware FLOP utilization"),
    _quantity("utilization", "ratio_to_roofline", "ratio", "step time / roofline bound", True),
    _quantity("utilization", "device_busy_pct", "percent", "device busy time"),
    _quantity("utilization", "cpu_busy_pct", "percent", "CPU utilization"),
)
ENERGY = (
    _quantity("energy", "energy_per_step_j", "joules", "energy per step", True, True),
    _quantity(
        "energy",
        "energy_above_idle_per_step_j",
        "joules",
        "energy per step above idle",
        logarithmic=True,
        fitted=True,
    ),
    _quantity("energy", "mean_power_w", "watts", "mean power"),
)
_TITLES = {"utilization": "FLOP rate and utilization", "energy": "Energy and power"}


def utilization_chapter(
    series: Sequence[Series], quantities: Sequence[Quantity], meaning: str
) -> Chapter:
    """Return the chapter with a panel for each measured quantity, and notes on the others.

    Args:
        series: All series of the report.
        quantities: Quantities of the chapter.
        meaning: Explanation of the figures.
    """
    name = quantities[0].name
    title = _TITLES[name]
    lines = {
        quantity: {id(s): line for s in series if (line := line_of(s, quantity)) is not None}
        for quantity in quantities
    }
    notes = tuple(
        missing_note(quantity.label[0].upper() + quantity.label[1:], quantity.metrics[0], series)
        for quantity, by_series in lines.items()
        if not by_series
    )
    measured = [s for s in series if any(id(s) in by_series for by_series in lines.values())]
    figures = []
    for share in shares(measured, MAX_LINES):
        panels = [_panel(quantity, by_series, share) for quantity, by_series in lines.items()]
        plotted = [panel for panel in panels if panel.lines]
        figures.append(
            Figure(
                figure_name(name, share),
                figure_title(title, share),
                tuple(_finding(panel) for panel in plotted),
                partial(draw_curves, plotted),
                figure_note(share, name),
            )
        )
    return Chapter(
        name,
        title,
        meaning,
        table=values_of(line for by_series in lines.values() for line in by_series.values()),
        figures=tuple(figures),
        notes=notes,
    )


def _panel(quantity: Quantity, by_series: dict[int, Line], share: Share) -> Panel:
    named = labels([s.rows[0] for s in share.series])
    lines = tuple(
        (by_series[id(s)], label, number)
        for number, (s, label) in enumerate(zip(share.series, named, strict=True))
        if id(s) in by_series
    )
    return Panel("", quantity, lines)


def _finding(panel: Panel) -> str:
    """Return one sentence on the maximum of each line."""
    kind = panel.quantity.kind
    maxima = []
    for line, _, _ in panel.lines:
        most, tokens = max(zip(line.values, line.tokens, strict=True))
        maxima.append(f"{line.label} {format_value(most, kind)} (at {tokens:.0f} tokens)")
    return f"Maximum {panel.quantity.label}: {', '.join(maxima)}."
