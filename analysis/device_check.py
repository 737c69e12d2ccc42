"""Chapters of a device check: achieved rates, and kernel times relative to the roofline."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd

from analysis.chapter import Chapter, Figure, count_of
from analysis.drawing import PAGE, line_style, paper_style, plot_text, subplots
from analysis.quantities import format_ratio, format_value, unit_of
from analysis.table import IDENTITY, Row, rows

# Inches: height of a row, and vertical margins.
_ROW, _MARGIN = 0.19, 0.75
# Characters of a text line in a panel.
_LETTERS = 48
_MAX_ROWS = 40


def rates_chapter(table: pd.DataFrame) -> Chapter:
    """Return achieved rates by device, with the share of the data sheet's peak where known."""
    name, title = "rates", "Achieved rates"
    meaning = (
        "Rates of programs that each use a single resource: an upper limit for kernels on this "
        "device. For listed devices, the share of the data sheet's peak is stated."
    )
    records = rows(table)
    rates = [(row, measured_rate) for row in records if (measured_rate := _rate(row)) is not None]
    if not rates:
        return Chapter(name, title, meaning)
    lines = []
    bars = []
    for row, (label, kind, rate) in rates:
        ratio = row.value("ratio_to_roofline")
        share = 1 / ratio if ratio else None
        lines.append((*row.identity, label, rate, share, row.record["run_id"]))
        text = format_value(rate, kind) + (f", {100 * share:.0f} % of peak" if share else "")
        bars.append((f"{label}, {row.device}", rate, kind, text))
    findings = tuple(f"{label}: {text}." for label, _, _, text in bars)
    figure = Figure(name, title, findings, partial(_draw_rates, bars))
    columns = [*IDENTITY, "resource", "rate_per_s", "share_of_peak", "run_id"]
    return Chapter(name, title, meaning, pd.DataFrame(lines, columns=columns), (figure,))


def _is_resource(row: Row) -> bool:
    """Return whether a record measures a single resource of a device."""
    return "resource" in row.record["workload"]["labels"]


def _rate(row: Row) -> tuple[str, str, float] | None:
    """Return a resource's name, the kind of its unit and its rate; None if not measured."""
    seconds = row.value("device_time_s") or row.value("step_time_s")
    labels = row.record["workload"]["labels"]
    work = row.record["outcome"].get("work")
    if not _is_resource(row) or row.status != "ok" or not seconds or not work:
        return None
    return str(labels["resource"]), str(labels["rate"]), work / seconds


def _draw_rates(bars: Sequence[tuple[str, float, str, str]]) -> Any:
    """Plot one panel for each kind of unit, with a bar for each rate."""
    kinds = list(dict.fromkeys(kind for _, _, kind, _ in bars))
    with paper_style():
        most = max(sum(bar[2] == kind for bar in bars) for kind in kinds)
        figure, axes = subplots(len(kinds), 2 * _ROW * most + _MARGIN, PAGE)
        for panel, kind in zip(axes, kinds, strict=True):
            of_kind = [bar for bar in bars if bar[2] == kind]
            unit = unit_of(kind, [rate for _, rate, _, _ in of_kind])
            for y, (label, rate, _, text) in enumerate(of_kind):
                length = rate / unit.factor
                panel.barh(y, length, color="#D5E8F5", edgecolor="black", height=0.35)
                words = plot_text(f"{label}: {text}", _LETTERS)
                panel.text(0, y - 0.25, words, va="bottom", fontsize=6)
            panel.set_yticks([])
            panel.set_ylim(len(of_kind) - 0.6, -0.9)
            panel.set_xlabel(unit.name)
    return figure


def roofline_chapter(table: pd.DataFrame) -> Chapter:
    """Return device times of single operators, relative to their roofline bounds."""
    name, title = "kernels_roofline", "Kernels relative to the roofline"
    meaning = (
        "Device time without launches, divided by the least time that the data sheet's peaks "
        "allow (1 is the optimum). Logarithmic axis."
    )
    timed = [
        row
        for row in rows(table)
        if row.status == "ok" and row.value("device_time_s") and not _is_resource(row)
    ]
    if not timed:
        return Chapter(name, title, meaning)
    columns = [
        *(*IDENTITY, "tokens", "device_time_s", "step_time_s", "host_time_s"),
        *("roofline_bound_s", "ratio_to_roofline", "error_ratio", "run_id"),
    ]
    times = table.loc[[row.index for row in timed]].reindex(columns=columns)
    bounded = [row for row in timed if row.value("ratio_to_roofline")]
    notes = (
        ()
        if bounded
        else (f"{title} is not plotted: no peak rates are known for the device that ran them.",)
    )
    figures = _roofline_figures(bounded, name, title)
    return Chapter(name, title, meaning, times, figures, notes)


def _roofline_figures(bounded: Sequence[Row], name: str, title: str) -> tuple[Figure, ...]:
    groups: dict[str, list[Row]] = {}
    for row in bounded:
        groups.setdefault(_label(row), []).append(row)
    if not groups:
        return ()
    ranked = sorted(groups.items(), key=lambda item: -max(map(_ratio, item[1])))
    plotted = dict(ranked[:_MAX_ROWS])
    left_out = len(groups) - len(plotted)
    note = f"{count_of(left_out, 'more line')} did not fit, see {name}.csv." if left_out else ""
    (farthest, farthest_rows), (nearest, nearest_rows) = ranked[0], ranked[-1]
    findings = (
        f"Farthest from the bound: {farthest}, {format_ratio(max(map(_ratio, farthest_rows)))}.",
        f"Nearest: {nearest}, {format_ratio(min(map(_ratio, nearest_rows)))}.",
    )
    return (Figure(name, title, findings, partial(_draw_roofline, plotted), note),)


def _label(row: Row) -> str:
    return ", ".join(filter(None, (row.series, row.variant)))


def _ratio(row: Row) -> float:
    return float(row.value("ratio_to_roofline") or 0.0)


def _draw_roofline(groups: dict[str, list[Row]]) -> Any:
    """Plot one row for each operator and pass, with a marker for each size."""
    from matplotlib.lines import Line2D

    from analysis.drawing import legend_above, legend_rows

    sizes = sorted({row.tokens for group in groups.values() for row in group})
    handles = [
        Line2D(
            [],
            [],
            color=line_style(n).colour,
            marker=line_style(n).marker,
            ls="",
            label=f"N = {size:.0f}",
        )
        for n, size in enumerate(sizes)
    ]
    with paper_style():
        extra = legend_rows([str(handle.get_label()) for handle in handles], PAGE)
        figure, (axes,) = subplots(1, _ROW * len(groups) + _MARGIN, PAGE, extra)
        for y, group in enumerate(groups.values()):
            for row in group:
                style = line_style(sizes.index(row.tokens))
                axes.plot(_ratio(row), y, marker=style.marker, color=style.colour, ls="")
        axes.axvline(1.0, color="black", lw=0.8)
        axes.set_xscale("log")
        axes.set_yticks(range(len(groups)), [plot_text(label) for label in groups], fontsize=6)
        axes.invert_yaxis()
        axes.set_xlabel("device time / roofline bound")
        legend_above(figure, handles)
    return figure
