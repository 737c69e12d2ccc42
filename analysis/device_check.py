"""A device as a check found it: achieved rates, and kernels beside their roofline bounds."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from analysis.chapter import Chapter, Figure, count_of
from analysis.drawing import PAGE, look, plain, styled, subplots
from analysis.quantities import times, unit_of, written
from analysis.table import IDENTITY, Cell, Row

# Inches.
_ROW, _MARGIN = 0.19, 0.75
# Of a line of text in a panel.
_LETTERS = 48
_MOST_ROWS = 40


def rates_chapter(table: Sequence[Row]) -> Chapter:
    """Achieved rates of each device, with the share of the data sheet's peak where it is known."""
    name, title = "rates", "Achieved rates"
    meaning = (
        "Rates of programs that use one resource each: what kernels can hope for on this very "
        "device. The share of the data sheet's peak is there where the device is listed."
    )
    found = [(row, its) for row in table if (its := _rate(row)) is not None]
    if not found:
        return Chapter(name, title, meaning)
    lines: list[tuple[Cell, ...]] = []
    bars = []
    for row, (label, kind, rate) in found:
        ratio = row.value("times_floor")
        share = 1 / ratio if ratio else None
        lines.append((*row.identity, label, rate, share, row.record["run_id"]))
        text = written(rate, kind) + (f", {100 * share:.0f} % of peak" if share else "")
        bars.append((f"{label}, {row.device}", rate, kind, text))
    findings = tuple(f"{label}: {text}." for label, _, _, text in bars)
    figure = Figure(name, title, findings, partial(_draw_rates, bars))
    columns = (*IDENTITY, "resource", "rate_per_s", "share_of_peak", "run_id")
    return Chapter(name, title, meaning, columns, tuple(lines), (figure,))


def _is_resource(row: Row) -> bool:
    """Return whether a record is of one resource of a device by itself."""
    return "resource" in row.record["workload"]["labels"]


def _rate(row: Row) -> tuple[str, str, float] | None:
    """Return what a record says of one resource: its name, the kind of its unit, the rate."""
    seconds = row.value("device_time_s") or row.value("step_time_s")
    labels = row.record["workload"]["labels"]
    work = row.record["outcome"].get("work")
    if not _is_resource(row) or row.status != "ok" or not seconds or not work:
        return None
    return str(labels["resource"]), str(labels["rate"]), work / seconds


def _draw_rates(bars: Sequence[tuple[str, float, str, str]]) -> Any:
    """Draw a panel for each kind of unit, a bar for each rate."""
    kinds = list(dict.fromkeys(kind for _, _, kind, _ in bars))
    with styled():
        most = max(sum(bar[2] == kind for bar in bars) for kind in kinds)
        figure, axes = subplots(len(kinds), 2 * _ROW * most + _MARGIN, PAGE)
        for panel, kind in zip(axes, kinds, strict=True):
            chosen = [bar for bar in bars if bar[2] == kind]
            unit = unit_of(kind, [rate for _, rate, _, _ in chosen])
            for place, (label, rate, _, text) in enumerate(chosen):
                drawn = rate / unit.factor
                panel.barh(place, drawn, color="#D5E8F5", edgecolor="black", height=0.35)
                words = plain(f"{label}: {text}", _LETTERS)
                panel.text(0, place - 0.25, words, va="bottom", fontsize=6)
            panel.set_yticks([])
            panel.set_ylim(len(chosen) - 0.6, -0.9)
            panel.set_xlabel(unit.name)
    return figure


def roofline_chapter(table: Sequence[Row]) -> Chapter:
    """Times of single operators on the device over their roofline bounds."""
    name, title = "kernels_roofline", "Kernels beside the roofline"
    meaning = (
        "Time on the device, launches left out, over the least time that the data sheet's peaks "
        "allow: 1 cannot be beaten. Logarithmic."
    )
    rows = [
        row
        for row in table
        if row.status == "ok" and row.value("device_time_s") and not _is_resource(row)
    ]
    if not rows:
        return Chapter(name, title, meaning)
    lines: tuple[tuple[Cell, ...], ...] = tuple(
        (
            *row.identity,
            row.tokens,
            *(row.value(each) for each in ("device_time_s", "step_time_s", "host_time_s")),
            *(row.value(each) for each in ("floor_s", "times_floor", "error_ratio")),
            row.record["run_id"],
        )
        for row in rows
    )
    bounded = [row for row in rows if row.value("times_floor")]
    columns = (
        *(*IDENTITY, "tokens", "device_time_s", "step_time_s", "host_time_s"),
        *("floor_s", "times_floor", "error_ratio", "run_id"),
    )
    notes = (
        ()
        if bounded
        else (f"{title} is not drawn: no peak rates are known of the device that ran them.",)
    )
    figures = _roofline_figures(bounded, name, title)
    return Chapter(name, title, meaning, columns, lines, figures, notes)


def _roofline_figures(rows: Sequence[Row], name: str, title: str) -> tuple[Figure, ...]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_label(row), []).append(row)
    if not groups:
        return ()
    ranked = sorted(groups.items(), key=lambda item: -max(map(_ratio, item[1])))
    shown = dict(ranked[:_MOST_ROWS])
    left_out = len(groups) - len(shown)
    note = f"{count_of(left_out, 'more line')} in {name}.csv, for want of room." if left_out else ""
    (farthest, its_rows), (nearest, near_rows) = ranked[0], ranked[-1]
    findings = (
        f"Farthest from the bound: {farthest}, {times(max(map(_ratio, its_rows)))}.",
        f"Nearest: {nearest}, {times(min(map(_ratio, near_rows)))}.",
    )
    return (Figure(name, title, findings, partial(_draw_roofline, shown), note),)


def _label(row: Row) -> str:
    return ", ".join(filter(None, (row.series, row.variant)))


def _ratio(row: Row) -> float:
    return float(row.value("times_floor") or 0.0)


def _draw_roofline(groups: dict[str, list[Row]]) -> Any:
    """Draw a line for each operator and pass, a mark for each size."""
    from matplotlib.lines import Line2D

    from analysis.drawing import legend_above, legend_rows

    sizes = sorted({row.tokens for rows in groups.values() for row in rows})
    handles = [
        Line2D([], [], color=look(n).colour, marker=look(n).marker, ls="", label=f"N = {size:.0f}")
        for n, size in enumerate(sizes)
    ]
    with styled():
        extra = legend_rows([str(handle.get_label()) for handle in handles], PAGE)
        figure, (axes,) = subplots(1, _ROW * len(groups) + _MARGIN, PAGE, extra)
        for place, rows in enumerate(groups.values()):
            for row in rows:
                drawn = look(sizes.index(row.tokens))
                axes.plot(_ratio(row), place, marker=drawn.marker, color=drawn.colour, ls="")
        axes.axvline(1.0, color="black", lw=0.8)
        axes.set_xscale("log")
        axes.set_yticks(range(len(groups)), [plain(label) for label in groups], fontsize=6)
        axes.invert_yaxis()
        axes.set_xlabel("time on the device over the roofline bound")
        legend_above(figure, handles)
    return figure
