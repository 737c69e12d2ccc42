"""How many operators or kernels of each kind a step runs, series beside series."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from analysis.chapter import (
    Chapter,
    Figure,
    figure_name,
    figure_note,
    figure_title,
    why_missing,
)
from analysis.drawing import PAGE, legend_above, legend_rows, look, plain, styled, subplots
from analysis.quantities import at_size, times
from analysis.series import Series, Share, labels, shares
from analysis.table import IDENTITY, Cell, Row

_METRICS = {
    "operator_calls": "operator calls in a step",
    "kernel_launches": "kernel launches in a step",
}
_MOST_SERIES = 6
# Where nothing is drawn on a logarithmic axis: left of one call.
_NONE_AT = 0.45


def calls_chapters(series: Sequence[Series]) -> list[Chapter]:
    """Calls of each kind: of operators, and of kernels on an accelerator."""
    return [_chapter(series, metric, what) for metric, what in _METRICS.items()]


def _chapter(series: Sequence[Series], metric: str, what: str) -> Chapter:
    name = f"{metric}_by_kind"
    title = f"{what[0].upper()}{what[1:]}, by kind"
    meaning = (
        "Each mark is a series; a line joins the marks of one kind. Series are compared at the "
        "largest size that all of a figure share, or each at its own largest if they share none."
    )
    there = [each for each in series if any(row.parts(metric) for row in each.well())]
    if not there:
        if any(row.value(metric) is not None for each in series for row in each.rows):
            note = f"{title} is not drawn: no record has {metric} by kind."
        else:
            note = why_missing(title, metric, series)
        return Chapter(name, title, meaning, notes=(note,))
    figures = [
        _figure(name, title, what, metric, share)
        for share in shares(there, _MOST_SERIES, lambda s: _total(s, metric))
    ]
    lines: list[tuple[Cell, ...]] = [
        (*row.identity, row.tokens, metric, kind, calls, row.value(metric), row.record["run_id"])
        for each in there
        for row in _rows(each, metric)
        for kind, calls in sorted(row.parts(metric).items())
    ]
    return Chapter(
        name,
        title,
        meaning,
        columns=(*IDENTITY, "tokens", "metric", "kind", "calls", "all_calls", "run_id"),
        lines=tuple(lines),
        figures=tuple(figures),
    )


def _rows(series: Series, metric: str) -> list[Row]:
    """One row of each size that has calls by kind."""
    return series.typical(lambda row: row.value(metric) if row.parts(metric) else None)


def _total(series: Series, metric: str) -> float:
    return max((row.value(metric) or 0.0 for row in _rows(series, metric)), default=0.0)


def _figure(name: str, title: str, what: str, metric: str, share: Share) -> Figure:
    rows = compared([_rows(each, metric) for each in share.series])
    named = [
        f"{label}, {at_size(row.tokens)}" for label, row in zip(labels(rows), rows, strict=True)
    ]
    counts = {label: row.parts(metric) for label, row in zip(named, rows, strict=True)}
    return Figure(
        figure_name(name, share),
        figure_title(title, share),
        tuple(_findings(counts)),
        partial(_draw, counts, what),
        figure_note(share, name),
    )


def compared(rows: Sequence[Sequence[Row]]) -> list[Row]:
    """One row of each series: of the largest size that all have, else of each one's largest."""
    sizes = set.intersection(*({row.tokens for row in each} for each in rows))
    largest = max(sizes, default=None)
    return [next((row for row in each if row.tokens == largest), each[-1]) for each in rows]


def kinds(counts: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The kinds that any series has, most calls first."""
    most: dict[str, float] = {}
    for each in counts.values():
        for kind, calls in each.items():
            most[kind] = max(most.get(kind, 0), calls)
    return sorted((kind for kind in most if most[kind] > 0), key=lambda kind: (-most[kind], kind))


def _findings(counts: Mapping[str, Mapping[str, float]]) -> list[str]:
    totals = {label: sum(each.values()) for label, each in counts.items()}
    most = max(totals, key=lambda label: (totals[label], label))
    found = []
    for label, total in totals.items():
        first = max(counts[label], key=lambda kind: (counts[label][kind], kind))
        text = f"{label}: {total:,.0f} in a step, most of them {first} ({counts[label][first]:,})"
        if label != most and total:
            text += f"; {most} has {times(totals[most] / total)} as many"
            text += _widest(counts[most], counts[label])
        found.append(text + ".")
    return found


def _widest(counts: Mapping[str, float], base: Mapping[str, float]) -> str:
    """The kind whose calls are the furthest above another's, if any is above."""
    ratios = {kind: calls / base[kind] for kind, calls in counts.items() if base.get(kind)}
    kind = max(ratios, key=lambda kind: (ratios[kind], kind), default="")
    if not kind or ratios[kind] <= 1:
        return ""
    return f", furthest apart in {kind} ({counts[kind]:,} to {base[kind]:,})"


def _draw(counts: Mapping[str, Mapping[str, float]], what: str) -> Any:
    """Dots on a logarithmic axis, a row for each kind: bars would have no zero to stand on."""
    from matplotlib.lines import Line2D

    rows = kinds(counts)
    with styled():
        width = 0.75 * PAGE
        pitch = max(0.17, 0.05 + 0.045 * len(counts))
        figure, (axes,) = subplots(
            1, 0.6 + pitch * len(rows), width, legend_rows(list(counts), width)
        )
        axes.set_xscale("log")
        for place, kind in enumerate(rows):
            there = [each.get(kind, 0) or _NONE_AT for each in counts.values()]
            axes.plot([min(there), max(there)], [place] * 2, "-", color="0.8", lw=1.5, zorder=1)
        handles = []
        for number, (label, each) in enumerate(counts.items()):
            how = look(number)
            style: dict[str, Any] = {"color": how.colour, "marker": how.marker, "ls": "", "ms": 4.5}
            values = [each.get(kind, 0) for kind in rows]
            # Hollow where there is none; marks of equal values stay visible side by side.
            shift = 0.7 / len(counts) * (number - (len(counts) - 1) / 2)
            for place, value in enumerate(values):
                axes.plot(
                    [value or _NONE_AT],
                    [place + shift],
                    **style,
                    markerfacecolor=how.colour if value else "white",
                    zorder=2,
                )
            handles.append(Line2D([], [], **style, label=plain(label)))
        axes.set_yticks(range(len(rows)), [plain(kind.replace("_", " ")) for kind in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(what)
        _label_calls(axes, counts)
        legend_above(figure, handles)
    return figure


def _label_calls(axes: Any, counts: Mapping[str, Mapping[str, float]]) -> None:
    from matplotlib.ticker import NullLocator

    most = max(calls for each in counts.values() for calls in each.values())
    ticks = [10**k for k in range(len(str(int(most))) + 1)]
    axes.set_xticks([_NONE_AT, *ticks], ["none", *(f"{tick:,}" for tick in ticks)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(_NONE_AT / 1.4, most * 1.6)
