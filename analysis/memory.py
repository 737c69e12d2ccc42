"""Memory at the peak of a step, by state, and its activations by module."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd

from analysis.chapter import (
    Chapter,
    Figure,
    figure_name,
    figure_note,
    figure_title,
    missing_note,
)
from analysis.nested import breakdown, parts
from analysis.palette import STATES
from analysis.quantities import format_percent, format_value, unit_of
from analysis.series import Series, Share, labels, shares
from analysis.stacks import MAX_PANELS, Stack, StackPanel, draw_stacks, in_order
from analysis.table import IDENTITY, Row, stacked

# Tracked on real tensors, or else predicted from a trace on fake tensors.
PEAKS = ("peak_tracked_bytes", "predicted_peak_bytes")
BETWEEN_STEPS = frozenset(STATES[:5])
UNATTRIBUTED = "unattributed"
BREAKDOWN = "activation_bytes_by_module"
OTHER = "other modules"
OUTSIDE = "outside modules"

_DRAWN_LAST = (OUTSIDE, OTHER, UNATTRIBUTED)
# With the parts of `_DRAWN_LAST`, at most the number of fills.
_MAX_MODULES = 8
# Columns of the numbers, the part that they are of being a state or a module.
_COLUMNS = (*IDENTITY, "tokens", "source", "part", "bytes", "all_bytes", "run_id")


def state_chapter(series: Sequence[Series]) -> Chapter:
    """Return the chapter of the tracked or predicted peak by state, over tokens."""
    empty = Chapter(
        "memory_by_state",
        "Memory by state",
        "Live tensors at the memory peak of a step: stacks add up to the peak of all tensors, "
        "tracked by storage. Activations are saved by forward for backward; recomputed ones are "
        "rebuilt by checkpointing; temporaries live within one phase.",
    )
    measured = {id(s): use for s in series if (use := _by_state(s)) is not None}
    if not measured:
        return _without_figures(empty, missing_note(empty.title, PEAKS[0], series))
    return _with_figures(empty, "state", series, measured, STATES, _state_finding)


def module_chapter(series: Sequence[Series]) -> Chapter:
    """Return the chapter of activations at the peak by the module that allocated them."""
    empty = Chapter(
        "activations_by_module",
        "Activation memory by module",
        "Activations, saved or recomputed, that are alive at the memory peak of a step, by the "
        "module that allocated them. The largest modules of each panel are named.",
    )
    measured = {id(s): use for s in series if (use := _by_module(s)) is not None}
    if not measured:
        return _without_figures(empty, f"{empty.title} is not plotted: no record has {BREAKDOWN}.")
    return _with_figures(empty, "module", series, measured, (), _module_finding)


def _by_state(series: Series) -> pd.DataFrame | None:
    """Return the peak by state, for one record of each size; None if no record has it."""
    for metric in PEAKS:
        if rows := series.typical(partial(_whole, metric)):
            table = parts(series.select(rows), metric)
            names = {metric: "bytes", f"all_{metric}": "all_bytes"}
            return _with_totals(table.rename(columns=names), metric)
    return None


def _whole(metric: str, row: Row) -> float | None:
    return row.value(metric) if row.parts(metric) else None


def _by_module(series: Series) -> pd.DataFrame | None:
    """Return the activations by module, for one record of each size; None if no record has them."""
    rows = series.typical(lambda row: sum(row.breakdown(BREAKDOWN).values()) or None)
    table = breakdown(series.select(rows), BREAKDOWN)
    if not (table["module"] != "").any():
        # All activations are outside modules: there are no parts to show.
        return None
    names = {"module": "part", "activation_bytes": "bytes"}
    return _with_totals(table.rename(columns=names).assign(all_bytes=0), BREAKDOWN)


def _with_totals(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return parts with their totals; bytes of a record without a state are a part of their own."""
    text = table.assign(part=table["part"].astype("string").replace("", OUTSIDE), source=source)
    sums = text.groupby("run_id")["bytes"].transform("sum")
    unclaimed = text.assign(part=UNATTRIBUTED, bytes=text["all_bytes"] - sums)
    unclaimed = unclaimed[unclaimed["bytes"] > 0].drop_duplicates("run_id")
    whole = pd.concat([text, unclaimed], ignore_index=True)
    totals = whole.groupby("run_id")["bytes"].transform("sum")
    return whole.assign(all_bytes=totals).sort_values(["tokens", "part"], ignore_index=True)


def _stacks(table: pd.DataFrame) -> tuple[Stack, ...]:
    """Return a stack for each size."""
    return tuple(
        Stack(float(tokens), dict(zip(of_size["part"], of_size["bytes"].tolist(), strict=True)))
        for tokens, of_size in table.groupby("tokens")
    )


def _without_figures(chapter: Chapter, note: str) -> Chapter:
    return Chapter(chapter.name, chapter.title, chapter.meaning, notes=(note,))


def _with_figures(
    chapter: Chapter,
    part: str,
    series: Sequence[Series],
    measured: Mapping[int, pd.DataFrame],
    part_order: Sequence[str],
    finding: Callable[[StackPanel], str],
) -> Chapter:
    with_memory = [s for s in series if id(s) in measured]
    panels = {id(s): StackPanel(s.label, _stacks(measured[id(s)])) for s in with_memory}

    def largest(s: Series) -> float:
        return max(stack.total for stack in panels[id(s)].stacks)

    # Memory of a host's pipeline is not comparable with that of a model's step.
    on_host = [s for s in with_memory if s.is_of_host]
    models = [s for s in with_memory if not s.is_of_host]

    return Chapter(
        chapter.name,
        chapter.title,
        chapter.meaning,
        table=stacked(list(measured.values()), _COLUMNS).rename(columns={"part": part}),
        figures=tuple(
            _figure(chapter, share, [panels[id(s)] for s in share.series], part_order, finding)
            for group in (models, on_host)
            for share in _apart(shares(group, MAX_PANELS, largest), group is on_host)
        ),
    )


def _apart(selections: Sequence[Share], on_host: bool) -> list[Share]:
    """Return the selections, named as those of the host's programs if they are."""
    if not on_host:
        return list(selections)
    return [
        replace(
            share,
            suffix="-".join(filter(None, ("host", share.suffix))),
            subject=", ".join(filter(None, ("host", share.subject))),
        )
        for share in selections
    ]


def _figure(
    chapter: Chapter,
    share: Share,
    panels: Sequence[StackPanel],
    part_order: Sequence[str],
    finding: Callable[[StackPanel], str],
) -> Figure:
    plotted = panels if part_order else _with_named_modules(panels)
    order = in_order([stack for panel in plotted for stack in panel.stacks], part_order)
    # Parts without a module's name are on top.
    order.sort(key=lambda part: _DRAWN_LAST.index(part) if part in _DRAWN_LAST else -1)
    # Panels share a scale, that of the largest.
    unit = unit_of("bytes", [max(panel.top for panel in plotted)])
    y_label = "peak memory" if part_order else "activation memory"
    named = labels([s.rows[0] for s in share.series])
    plotted = [replace(panel, title=name) for panel, name in zip(plotted, named, strict=True)]
    return Figure(
        figure_name(chapter.name, share),
        figure_title(chapter.title, share),
        tuple(map(finding, panels)),
        partial(
            draw_stacks,
            plotted,
            order,
            unit,
            "tokens N",
            y_label,
            role="state" if part_order else "module",
        ),
        figure_note(share, chapter.name),
    )


def _with_named_modules(panels: Sequence[StackPanel]) -> list[StackPanel]:
    """Return the panels with small modules merged; each panel's largest stay, in turns."""
    ranked = [_ranked(panel.stacks[-1]) for panel in panels]
    turns = sorted(
        (turn, -share, module)
        for panel in ranked
        for turn, (module, share) in enumerate(panel)
        if module != OUTSIDE
    )
    largest = list(dict.fromkeys(module for _, _, module in turns))
    named = {*largest[:_MAX_MODULES], OUTSIDE}

    def merged(stack: Stack) -> Stack:
        parts = {name: value for name, value in stack.parts.items() if name in named}
        other = stack.total - sum(parts.values())
        return Stack(stack.at, parts | ({OTHER: other} if other else {}))

    return [replace(panel, stacks=tuple(map(merged, panel.stacks))) for panel in panels]


def _ranked(stack: Stack) -> list[tuple[str, float]]:
    """Return the parts of a stack with their shares, largest first."""
    ranked = sorted(stack.parts.items(), key=lambda item: (-item[1], item[0]))
    return [(name, value / stack.total) for name, value in ranked]


def _two_largest(stack: Stack) -> str:
    return ", then ".join(f"{name} ({format_percent(share)})" for name, share in _ranked(stack)[:2])


def _state_finding(panel: StackPanel) -> str:
    stack = panel.stacks[-1]
    per_step = sum(value for state, value in stack.parts.items() if state not in BETWEEN_STEPS)
    return (
        f"{panel.title}: of {format_value(stack.total, 'bytes')} at {stack.at:.0f} tokens the "
        f"largest state is {_two_largest(stack)}; memory allocated within the step is "
        f"{format_percent(per_step / stack.total)}."
    )


def _module_finding(panel: StackPanel) -> str:
    stack = panel.stacks[-1]
    return (
        f"{panel.title}: of {format_value(stack.total, 'bytes')} of activations at {stack.at:.0f} "
        f"tokens the largest part belongs to {_two_largest(stack)}."
    )
