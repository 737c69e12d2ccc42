"""Chapter of phase times over the timed steps, data loading included."""

from collections.abc import Sequence
from functools import partial
from statistics import median

import pandas as pd

from analysis.chapter import (
    Chapter,
    Figure,
    figure_name,
    figure_note,
    figure_title,
    missing_note,
)
from analysis.nested import samples
from analysis.quantities import format_percent, format_ratio, format_size, format_value, unit_of
from analysis.series import Series, labels, shares
from analysis.stacks import MAX_PANELS, Stack, StackPanel, draw_stacks
from analysis.table import IDENTITY, Row, stacked

METRIC = "phase_time_s"
# Execution order for records without one; phases of other names come before backward.
_USUAL = ("data", "permutation", "forward", "backward", "all_reduce", "optimizer")
LOADING = "data"
_COLUMNS = (*IDENTITY, "tokens", "step", "phase", "seconds", "run_id")
_MAX_STEPS = 50


def phase_chapter(series: Sequence[Series]) -> Chapter:
    """Return the chapter of phase times, with one case of each series."""
    name, title = "phase_times", "Phase times of the timed steps"
    meaning = (
        f"Time of each step by phase, in the order measured, up to {_MAX_STEPS} steps. Each series "
        "is shown by its case with the most steps and, among those, the most tokens. The phase "
        "data is the time spent waiting for a batch."
    )
    cases = {id(s): row for s in series if (row := _longest_case(s)) is not None}
    if not cases:
        note = missing_note(title, METRIC, series)
        return Chapter(name, title, meaning, notes=(note,))
    with_phases = [s for s in series if id(s) in cases]
    steps = {key: _steps(row) for key, row in cases.items()}
    figures = []
    for share in shares(with_phases, MAX_PANELS)[:1]:
        named = labels([s.rows[0] for s in share.series])
        panels = [
            StackPanel(
                f"{label}, {format_size(cases[id(s)].tokens)}",
                tuple(steps[id(s)][:_MAX_STEPS]),
                s.workload,
            )
            for s, label in zip(share.series, named, strict=True)
        ]
        unit = unit_of("seconds", [max(s.total for s in panel.stacks) for panel in panels])
        order = merged([_order(cases[id(s)]) for s in share.series])
        figures.append(
            Figure(
                figure_name(name, share),
                figure_title(title, share),
                tuple(_finding(s, cases[id(s)], steps[id(s)]) for s in share.series),
                partial(
                    draw_stacks,
                    panels,
                    order,
                    unit,
                    "timed step",
                    "time",
                    role="phase",
                    joined=True,
                ),
                figure_note(share, name),
            )
        )
    return Chapter(
        name,
        title,
        meaning,
        table=stacked([_seconds(s, cases[id(s)]) for s in with_phases], _COLUMNS),
        figures=tuple(figures),
    )


def _seconds(series: Series, row: Row) -> pd.DataFrame:
    """Return the time of each phase in each step of a case."""
    names = {"part": "phase", METRIC: "seconds"}
    table = samples(series.select([row]), METRIC).rename(columns=names)
    of_phases = table[table["phase"].isin(_order(row)) & (table["step"] <= len(_steps(row)))]
    in_order = of_phases["phase"].cat.set_categories(_order(row))
    return of_phases.assign(phase=in_order).sort_values(["step", "phase"])


def _longest_case(series: Series) -> Row | None:
    """Return the median case among those with the most steps and then the most tokens."""
    rows = [row for row in series.rows if row.status == "ok" and _steps(row)]
    most = max(((len(_steps(row)), row.tokens) for row in rows), default=(0, 0.0))
    longest = [row for row in rows if (len(_steps(row)), row.tokens) == most]
    longest.sort(key=lambda row: row.value("step_time_s") or 0.0)
    return longest[(len(longest) - 1) // 2] if longest else None


def _steps(row: Row) -> list[Stack]:
    """Return the timed steps, by phase."""
    phases = {name: row.samples(f"{METRIC}.{name}") for name in _order(row)}
    count = min(map(len, phases.values()), default=0)
    return [
        Stack(k + 1, {name: seconds[k] for name, seconds in phases.items()}) for k in range(count)
    ]


def _order(row: Row) -> list[str]:
    """Return the phases of a case in execution order."""
    parts = row.parts(METRIC)
    listed = [name for name in row.record["notes"].get("phases", ()) if name in parts]
    unlisted = sorted(set(parts) - set(listed) - set(_USUAL))
    before = _USUAL.index("backward")
    usual = [*_USUAL[:before], *unlisted, *_USUAL[before:]]
    return listed + [name for name in usual if name in parts and name not in listed]


def merged(orders: Sequence[Sequence[str]]) -> list[str]:
    """Merge orders: every name follows its predecessor in the order that it first appears in."""
    names: list[str] = []
    for order in orders:
        position = 0
        for name in order:
            if name in names:
                position = names.index(name) + 1
            else:
                names.insert(position, name)
                position += 1
    return names


def _finding(series: Series, row: Row, steps: Sequence[Stack]) -> str:
    total = sum(step.total for step in steps)
    share = {phase: sum(step.parts[phase] for step in steps) / total for phase in steps[0].parts}
    first = max(share, key=lambda phase: (share[phase], phase))
    text = (
        f"{series.label}, {format_size(row.tokens)}: {first} takes "
        f"{format_percent(share[first])} of a step"
    )
    if LOADING in share and first != LOADING:
        text += f", {LOADING} {format_percent(share[LOADING])}"
    usual, most = median(step.total for step in steps), max(step.total for step in steps)
    return (
        f"{text}; the slowest of {len(steps)} steps took {format_ratio(most / usual)} the usual "
        f"{format_value(usual, 'seconds')}."
    )
