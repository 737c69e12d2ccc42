"""Where the time of each step goes: phases over the timed steps, data loading among them."""

from collections.abc import Sequence
from functools import partial
from statistics import median

from analysis.chapter import (
    Chapter,
    Figure,
    figure_name,
    figure_note,
    figure_title,
    why_missing,
)
from analysis.quantities import at_size, percent, times, unit_of, written
from analysis.series import Series, labels, shares
from analysis.stacks import MOST_PANELS, Stack, StackPanel, draw_stacks
from analysis.table import IDENTITY, Cell, Row

METRIC = "phase_time_s"
# As they run, where a record does not say; others come before backward.
_USUAL = ("data", "permutation", "forward", "backward", "all_reduce", "optimizer")
LOADING = "data"
_MOST_STEPS = 50


def phase_chapter(series: Sequence[Series]) -> Chapter:
    """Phase times of the timed steps of one case of each series."""
    name, title = "phase_times", "Phases of the timed steps"
    meaning = (
        f"Each step's time by phase, in the order measured, up to {_MOST_STEPS} steps; of each "
        "series the case of most steps, and among such of most tokens. Waiting for data is the "
        "phase named so."
    )
    found = {id(each): row for each in series if (row := _telling(each)) is not None}
    if not found:
        note = why_missing(title, METRIC, series)
        return Chapter(name, title, meaning, notes=(note,))
    there = [each for each in series if id(each) in found]
    steps = {key: _steps(row) for key, row in found.items()}
    lines: list[tuple[Cell, ...]] = [
        (*row.identity, row.tokens, number, phase, seconds, row.record["run_id"])
        for each in there
        for row in [found[id(each)]]
        for number, stack in enumerate(steps[id(each)], start=1)
        for phase, seconds in stack.parts.items()
    ]
    figures = []
    for share in shares(there, MOST_PANELS)[:1]:
        named = labels([each.rows[0] for each in share.series])
        panels = [
            StackPanel(
                f"{label}, {at_size(found[id(each)].tokens)}",
                tuple(steps[id(each)][:_MOST_STEPS]),
            )
            for each, label in zip(share.series, named, strict=True)
        ]
        unit = unit_of("seconds", [max(s.whole for s in panel.stacks) for panel in panels])
        order = merged([_order(found[id(each)]) for each in share.series])
        figures.append(
            Figure(
                figure_name(name, share),
                figure_title(title, share),
                tuple(_finding(each, found[id(each)], steps[id(each)]) for each in share.series),
                partial(draw_stacks, panels, order, unit, "timed step", "time", joined=True),
                figure_note(share, name),
            )
        )
    return Chapter(
        name,
        title,
        meaning,
        columns=(*IDENTITY, "tokens", "step", "phase", "seconds", "run_id"),
        lines=tuple(lines),
        figures=tuple(figures),
    )


def _telling(series: Series) -> Row | None:
    """The typical case of most steps and then most tokens that has phases."""
    rows = [row for row in series.rows if row.status == "ok" and _steps(row)]
    most = max(((len(_steps(row)), row.tokens) for row in rows), default=(0, 0.0))
    there = [row for row in rows if (len(_steps(row)), row.tokens) == most]
    there.sort(key=lambda row: row.value("step_time_s") or 0.0)
    return there[(len(there) - 1) // 2] if there else None


def _steps(row: Row) -> list[Stack]:
    """Each timed step by phase."""
    phases = {name: row.samples(f"{METRIC}.{name}") for name in _order(row)}
    count = min(map(len, phases.values()), default=0)
    return [Stack(k + 1, {name: each[k] for name, each in phases.items()}) for k in range(count)]


def _order(row: Row) -> list[str]:
    """The phases of a case as they run."""
    there = row.parts(METRIC)
    said = [name for name in row.record["notes"].get("phases", ()) if name in there]
    others = sorted(set(there) - set(said) - set(_USUAL))
    before = _USUAL.index("backward")
    usual = [*_USUAL[:before], *others, *_USUAL[before:]]
    return said + [name for name in usual if name in there and name not in said]


def merged(orders: Sequence[Sequence[str]]) -> list[str]:
    """One order that has every name, each behind what it follows where it is first seen."""
    found: list[str] = []
    for order in orders:
        place = 0
        for name in order:
            if name in found:
                place = found.index(name) + 1
            else:
                found.insert(place, name)
                place += 1
    return found


def _finding(series: Series, row: Row, steps: Sequence[Stack]) -> str:
    whole = sum(step.whole for step in steps)
    share = {phase: sum(step.parts[phase] for step in steps) / whole for phase in steps[0].parts}
    first = max(share, key=lambda phase: (share[phase], phase))
    text = f"{series.label}, {at_size(row.tokens)}: {first} takes {percent(share[first])} of a step"
    if LOADING in share and first != LOADING:
        text += f", {LOADING} {percent(share[LOADING])}"
    usual, most = median(step.whole for step in steps), max(step.whole for step in steps)
    return (
        f"{text}; the slowest of {len(steps)} steps took {times(most / usual)} the usual "
        f"{written(usual, 'seconds')}."
    )
