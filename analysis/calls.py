"""Figures of operator calls and kernel launches per step, by kind and series."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from analysis.chapter import (
    Chapter,
    Figure,
    figure_name,
    figure_note,
    figure_title,
    missing_note,
)
from analysis.drawing import (
    PAGE,
    legend_above,
    legend_rows,
    line_style,
    paper_style,
    plot_text,
    subplots,
)
from analysis.nested import parts
from analysis.quantities import format_ratio, format_size
from analysis.series import Series, Share, labels, shares
from analysis.table import IDENTITY, Row, stacked

_METRICS = {
    "operator_calls": "operator calls per step",
    "kernel_launches": "kernel launches per step",
}
_COLUMNS = (*IDENTITY, "tokens", "metric", "kind", "calls", "all_calls", "run_id")
_MAX_SERIES = 6
# Position of zero calls on a logarithmic axis: left of one call.
_NONE_AT = 0.45


def calls_chapters(series: Sequence[Series]) -> list[Chapter]:
    """Return the chapters of operator calls and of kernel launches, by kind."""
    return [_chapter(series, metric, label) for metric, label in _METRICS.items()]


def _chapter(series: Sequence[Series], metric: str, label: str) -> Chapter:
    name = f"{metric}_by_kind"
    title = f"{label[0].upper()}{label[1:]}, by kind"
    meaning = (
        "Each marker is a series; a line joins the markers of one kind. Series are compared at the "
        "largest size that all series of a figure share, or each at its own largest size if they "
        "share none."
    )
    with_kinds = [s for s in series if any(row.parts(metric) for row in s.ok_rows())]
    if not with_kinds:
        if any(row.value(metric) is not None for s in series for row in s.rows):
            note = f"{title} is not plotted: no record has {metric} by kind."
        else:
            note = missing_note(title, metric, series)
        return Chapter(name, title, meaning, notes=(note,))
    figures = [
        _figure(name, title, label, metric, share)
        for share in shares(with_kinds, _MAX_SERIES, lambda s: _total(s, metric))
    ]
    return Chapter(
        name,
        title,
        meaning,
        table=stacked([_calls(s, metric) for s in with_kinds], _COLUMNS),
        figures=tuple(figures),
    )


def _calls(series: Series, metric: str) -> pd.DataFrame:
    """Return the calls by kind of one record of each size."""
    names = {"part": "kind", metric: "calls", f"all_{metric}": "all_calls"}
    table = parts(series.select(_rows(series, metric)), metric).rename(columns=names)
    return table.assign(metric=metric).sort_values(["tokens", "kind"])


def _rows(series: Series, metric: str) -> list[Row]:
    """Return one row for each size that has calls by kind."""
    return series.typical(lambda row: row.value(metric) if row.parts(metric) else None)


def _total(series: Series, metric: str) -> float:
    return max((row.value(metric) or 0.0 for row in _rows(series, metric)), default=0.0)


def _figure(name: str, title: str, axis_label: str, metric: str, share: Share) -> Figure:
    rows = comparable_rows([_rows(s, metric) for s in share.series])
    named = [
        f"{label}, {format_size(row.tokens)}" for label, row in zip(labels(rows), rows, strict=True)
    ]
    counts = {label: row.parts(metric) for label, row in zip(named, rows, strict=True)}
    return Figure(
        figure_name(name, share),
        figure_title(title, share),
        tuple(_findings(counts)),
        partial(_draw, counts, axis_label),
        figure_note(share, name),
    )


def comparable_rows(rows: Sequence[Sequence[Row]]) -> list[Row]:
    """Return one row of each series, at the largest size that all share.

    If no size is shared, each series has its own largest size.
    """
    sizes = set.intersection(*({row.tokens for row in candidates} for candidates in rows))
    largest = max(sizes, default=None)
    return [
        next((row for row in candidates if row.tokens == largest), candidates[-1])
        for candidates in rows
    ]


def kinds(counts: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the kinds that any series has, most calls first."""
    most: dict[str, float] = {}
    for by_kind in counts.values():
        for kind, calls in by_kind.items():
            most[kind] = max(most.get(kind, 0), calls)
    return sorted((kind for kind in most if most[kind] > 0), key=lambda kind: (-most[kind], kind))


def _findings(counts: Mapping[str, Mapping[str, float]]) -> list[str]:
    totals = {label: sum(by_kind.values()) for label, by_kind in counts.items()}
    most = max(totals, key=lambda label: (totals[label], label))
    sentences = []
    for label, total in totals.items():
        first = max(counts[label], key=lambda kind: (counts[label][kind], kind))
        text = f"{label}: {total:,.0f} per step, most of them {first} ({counts[label][first]:,})"
        if label != most and total:
            text += f"; {most} has {format_ratio(totals[most] / total)} as many"
            text += _largest_difference(counts[most], counts[label])
        sentences.append(text + ".")
    return sentences


def _largest_difference(counts: Mapping[str, float], base: Mapping[str, float]) -> str:
    """Return a clause on the kind with the largest ratio to `base`; empty if no ratio is over 1."""
    ratios = {kind: calls / base[kind] for kind, calls in counts.items() if base.get(kind)}
    kind = max(ratios, key=lambda kind: (ratios[kind], kind), default="")
    if not kind or ratios[kind] <= 1:
        return ""
    return f"; the largest ratio is of {kind} ({counts[kind]:,} to {base[kind]:,})"


def _draw(counts: Mapping[str, Mapping[str, float]], axis_label: str) -> Any:
    """Plot markers on a logarithmic axis, one row for each kind.

    Bars would need a zero, which a logarithmic axis lacks.
    """
    from matplotlib.lines import Line2D

    rows = kinds(counts)
    with paper_style():
        width = 0.75 * PAGE
        pitch = max(0.17, 0.05 + 0.045 * len(counts))
        figure, (axes,) = subplots(
            1, 0.6 + pitch * len(rows), width, legend_rows(list(counts), width)
        )
        axes.set_xscale("log")
        for y, kind in enumerate(rows):
            values = [by_kind.get(kind, 0) or _NONE_AT for by_kind in counts.values()]
            axes.plot([min(values), max(values)], [y] * 2, "-", color="0.8", lw=1.5, zorder=1)
        handles = []
        for number, (label, by_kind) in enumerate(counts.items()):
            style_of_series = line_style(number)
            style: dict[str, Any] = {
                "color": style_of_series.colour,
                "marker": style_of_series.marker,
                "ls": "",
                "ms": 4.5,
            }
            values = [by_kind.get(kind, 0) for kind in rows]
            # Hollow markers are zeros; the offset keeps markers of equal values visible.
            offset = 0.7 / len(counts) * (number - (len(counts) - 1) / 2)
            for y, value in enumerate(values):
                axes.plot(
                    [value or _NONE_AT],
                    [y + offset],
                    **style,
                    markerfacecolor=style_of_series.colour if value else "white",
                    zorder=2,
                )
            handles.append(Line2D([], [], **style, label=plot_text(label)))
        axes.set_yticks(range(len(rows)), [plot_text(kind.replace("_", " ")) for kind in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(axis_label)
        _label_calls(axes, counts)
        legend_above(figure, handles)
    return figure


def _label_calls(axes: Any, counts: Mapping[str, Mapping[str, float]]) -> None:
    from matplotlib.ticker import NullLocator

    most = max(calls for by_kind in counts.values() for calls in by_kind.values())
    ticks = [10**k for k in range(len(str(int(most))) + 1)]
    axes.set_xticks([_NONE_AT, *ticks], ["none", *(f"{tick:,}" for tick in ticks)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(_NONE_AT / 1.4, most * 1.6)
