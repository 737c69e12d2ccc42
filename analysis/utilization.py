"""How busy and how frugal: rates, utilization and energy against tokens, where measured."""

from collections.abc import Sequence
from functools import partial

from analysis.chapter import (
    Chapter,
    Figure,
    figure_name,
    figure_note,
    figure_title,
    why_missing,
)
from analysis.curves import Line, Panel, draw_curves, line_of
from analysis.drawing import MOST_LINES
from analysis.growth import COLUMNS, table_of
from analysis.quantities import Quantity, written
from analysis.series import Series, Share, labels, shares


def _quantity(
    name: str, metric: str, kind: str, label: str, logarithmic: bool = False, fitted: bool = False
) -> Quantity:
    return Quantity(name, (metric,), kind, label, logarithmic, fitted)


UTILIZATION = (
    _quantity("utilization", "achieved_flops", "flops", "model FLOPs over time", logarithmic=True),
    _quantity("utilization", "model_flop_utilization", "share", "model FLOP utilization"),
    _quantity("utilization", "hardware_flop_utilization", "share", "hardware FLOP utilization"),
    _quantity("utilization", "times_floor", "ratio", "time over the device's floor", True),
    _quantity("utilization", "device_busy_pct", "percent", "time with a kernel running"),
    _quantity("utilization", "cpu_busy_pct", "percent", "CPU time over time and cores"),
)
ENERGY = (
    _quantity("energy", "energy_per_step_j", "joules", "energy of a step", True, True),
    _quantity(
        "energy",
        "energy_above_idle_per_step_j",
        "joules",
        "energy of a step above idle",
        logarithmic=True,
        fitted=True,
    ),
    _quantity("energy", "mean_power_w", "watts", "mean power"),
)
_TITLES = {"utilization": "Rate and utilization", "energy": "Energy and power"}


def use_chapter(series: Sequence[Series], quantities: Sequence[Quantity], meaning: str) -> Chapter:
    """A figure of one panel for each quantity that was measured; a note on each that was not.

    Args:
        series: All of the report.
        quantities: Of one chapter.
        meaning: How to read it.
    """
    name = quantities[0].name
    title = _TITLES[name]
    lines = {
        quantity: {id(s): line for s in series if (line := line_of(s, quantity)) is not None}
        for quantity in quantities
    }
    notes = tuple(
        why_missing(quantity.label[0].upper() + quantity.label[1:], quantity.metrics[0], series)
        for quantity, found in lines.items()
        if not found
    )
    there = [each for each in series if any(id(each) in found for found in lines.values())]
    figures = []
    for share in shares(there, MOST_LINES):
        panels = [_panel(quantity, found, share) for quantity, found in lines.items()]
        drawn = [panel for panel in panels if panel.lines]
        figures.append(
            Figure(
                figure_name(name, share),
                figure_title(title, share),
                tuple(_finding(panel) for panel in drawn),
                partial(draw_curves, drawn),
                figure_note(share, name),
            )
        )
    return Chapter(
        name,
        title,
        meaning,
        columns=COLUMNS,
        lines=tuple(
            each for found in lines.values() for line in found.values() for each in table_of(line)
        ),
        figures=tuple(figures),
        notes=notes,
    )


def _panel(quantity: Quantity, found: dict[int, Line], share: Share) -> Panel:
    named = labels([each.rows[0] for each in share.series])
    lines = tuple(
        (found[id(each)], label, number)
        for number, (each, label) in enumerate(zip(share.series, named, strict=True))
        if id(each) in found
    )
    return Panel("", quantity, lines)


def _finding(panel: Panel) -> str:
    """The largest value of each line, in one sentence."""
    kind = panel.quantity.kind
    told = []
    for line, _, _ in panel.lines:
        most, tokens = max(zip(line.values, line.tokens, strict=True))
        told.append(f"{line.label} {written(most, kind)} (at {tokens:.0f} tokens)")
    return (
        f"{panel.quantity.label[0].upper()}{panel.quantity.label[1:]} at most: {', '.join(told)}."
    )
