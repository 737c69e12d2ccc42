"""What memory holds at the peak of a step: its states, and the modules that activations are of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from analysis.chapter import (
    Chapter,
    Figure,
    figure_name,
    figure_note,
    figure_title,
    why_missing,
)
from analysis.quantities import percent, unit_of, written
from analysis.series import Series, Share, labels, shares
from analysis.stacks import MOST_PANELS, Stack, StackPanel, draw_stacks, in_order
from analysis.table import IDENTITY, Cell, Row

# Followed on real tensors where that was done, else of a step traced with shapes alone.
PEAKS = ("peak_tracked_bytes", "predicted_peak_bytes")
# From the bottom of a stack: what lives between steps, then what a step makes.
STATES = (
    *("parameters", "optimizer", "gradients", "constants", "inputs"),
    *("activations", "recomputed", "temporaries", "workspace"),
)
BETWEEN_STEPS = frozenset(STATES[:5])
UNATTRIBUTED = "unattributed"
BREAKDOWN = "activation_bytes_by_module"
OTHER = "other modules"
OUTSIDE = "outside modules"

_LAST = (OUTSIDE, OTHER, UNATTRIBUTED)
# With what has no name of its own, as many as there are fills.
_MOST_MODULES = 8


@dataclass(frozen=True, slots=True)
class Held:
    """What memory held in one case.

    Attributes:
        row: The case.
        source: The metric or breakdown that says so.
        stack: Bytes by state or module.
    """

    row: Row
    source: str
    stack: Stack

    def lines(self) -> list[tuple[Cell, ...]]:
        """Its numbers, a line for each part."""
        where = (*self.row.identity, self.row.tokens, self.source)
        whole, run = self.stack.whole, self.row.record["run_id"]
        return [(*where, part, n, whole, run) for part, n in sorted(self.stack.parts.items())]


def state_chapter(series: Sequence[Series]) -> Chapter:
    """The tracked or predicted peak by state, against tokens."""
    empty = Chapter(
        "memory_by_state",
        "Memory by state",
        "What is alive when a step's memory is largest: stacks add up to the peak of all tensors, "
        "followed storage by storage. Activations are what forward leaves for backward; "
        "recomputed ones are rebuilt by checkpointing; temporaries live inside one phase.",
    )
    found = {id(each): held for each in series if (held := _by_state(each))}
    if not found:
        return _without(empty, why_missing(empty.title, PEAKS[0], series))
    return _with(empty, "state", series, found, STATES, _state_finding)


def module_chapter(series: Sequence[Series]) -> Chapter:
    """Activations at the peak by the module that made them, against tokens."""
    empty = Chapter(
        "activations_by_module",
        "Activation memory by module",
        "Which modules made the activations, kept or recomputed, that are alive when a step's "
        "memory is largest. The largest modules of each panel have names.",
    )
    found = {id(each): held for each in series if (held := _by_module(each))}
    if not found:
        return _without(empty, f"{empty.title} is not drawn: no record has {BREAKDOWN}.")
    return _with(empty, "module", series, found, (), _module_finding)


def _by_state(series: Series) -> list[Held]:
    for metric in PEAKS:
        rows = series.typical(partial(_whole, metric))
        if rows:
            return [Held(row, metric, Stack(row.tokens, _states(row, metric))) for row in rows]
    return []


def _whole(metric: str, row: Row) -> float | None:
    return row.value(metric) if row.parts(metric) else None


def _states(row: Row, metric: str) -> Mapping[str, float]:
    """Bytes by state, which add up to the peak: what no state claims is a part of its own."""
    parts = row.parts(metric)
    left = (row.value(metric) or 0) - sum(parts.values())
    return parts | ({UNATTRIBUTED: left} if left > 0 else {})


def _by_module(series: Series) -> list[Held]:
    rows = series.typical(lambda row: sum(row.breakdown(BREAKDOWN).values()) or None)
    if not any(name for row in rows for name in row.breakdown(BREAKDOWN)):
        # Everything is outside modules: there is nothing to tell apart.
        return []
    return [
        Held(
            row,
            BREAKDOWN,
            Stack(row.tokens, {name or OUTSIDE: n for name, n in row.breakdown(BREAKDOWN).items()}),
        )
        for row in rows
    ]


def _without(chapter: Chapter, note: str) -> Chapter:
    return Chapter(chapter.name, chapter.title, chapter.meaning, notes=(note,))


def _with(
    chapter: Chapter,
    part: str,
    series: Sequence[Series],
    found: Mapping[int, Sequence[Held]],
    known: Sequence[str],
    finding: Callable[[StackPanel], str],
) -> Chapter:
    there = [each for each in series if id(each) in found]
    panels = {
        id(each): StackPanel(each.label, tuple(held.stack for held in found[id(each)]))
        for each in there
    }

    def largest(each: Series) -> float:
        return max(stack.whole for stack in panels[id(each)].stacks)

    return Chapter(
        chapter.name,
        chapter.title,
        chapter.meaning,
        columns=(*IDENTITY, "tokens", "source", part, "bytes", "all_bytes", "run_id"),
        lines=tuple(line for each in there for held in found[id(each)] for line in held.lines()),
        figures=tuple(
            _figure(chapter, share, [panels[id(each)] for each in share.series], known, finding)
            for share in shares(there, MOST_PANELS, largest)
        ),
    )


def _figure(
    chapter: Chapter,
    share: Share,
    panels: Sequence[StackPanel],
    known: Sequence[str],
    finding: Callable[[StackPanel], str],
) -> Figure:
    shown = panels if known else _with_names(panels)
    order = in_order([stack for panel in shown for stack in panel.stacks], known)
    # What has no name of its own lies on top.
    order.sort(key=lambda part: _LAST.index(part) if part in _LAST else -1)
    unit = unit_of("bytes", [max(stack.whole for stack in panel.stacks) for panel in shown])
    what = "peak memory" if known else "activations"
    named = labels([each.rows[0] for each in share.series])
    shown = [replace(panel, title=name) for panel, name in zip(shown, named, strict=True)]
    return Figure(
        figure_name(chapter.name, share),
        figure_title(chapter.title, share),
        tuple(map(finding, panels)),
        partial(draw_stacks, shown, order, unit, "tokens N", what),
        figure_note(share, chapter.name),
    )


def _with_names(panels: Sequence[StackPanel]) -> list[StackPanel]:
    """The same with all modules put together but each panel's largest, in turns."""
    ranked = [_ranked(panel.stacks[-1]) for panel in panels]
    turns = sorted(
        (turn, -share, module)
        for panel in ranked
        for turn, (module, share) in enumerate(panel)
        if module != OUTSIDE
    )
    largest = list(dict.fromkeys(module for _, _, module in turns))
    named = {*largest[:_MOST_MODULES], OUTSIDE}

    def merged(stack: Stack) -> Stack:
        parts = {name: value for name, value in stack.parts.items() if name in named}
        rest = stack.whole - sum(parts.values())
        return Stack(stack.at, parts | ({OTHER: rest} if rest else {}))

    return [replace(panel, stacks=tuple(map(merged, panel.stacks))) for panel in panels]


def _ranked(stack: Stack) -> list[tuple[str, float]]:
    """The parts of a stack and their shares of it, largest first."""
    ranked = sorted(stack.parts.items(), key=lambda item: (-item[1], item[0]))
    return [(name, value / stack.whole) for name, value in ranked]


def _first_two(stack: Stack) -> str:
    return ", then ".join(f"{name} ({percent(share)})" for name, share in _ranked(stack)[:2])


def _state_finding(panel: StackPanel) -> str:
    stack = panel.stacks[-1]
    made = sum(value for state, value in stack.parts.items() if state not in BETWEEN_STEPS)
    return (
        f"{panel.title}: of {written(stack.whole, 'bytes')} at {stack.at:.0f} tokens the largest "
        f"state is {_first_two(stack)}; what the step itself makes is "
        f"{percent(made / stack.whole)}."
    )


def _module_finding(panel: StackPanel) -> str:
    stack = panel.stacks[-1]
    return (
        f"{panel.title}: of {written(stack.whole, 'bytes')} of activations at {stack.at:.0f} "
        f"tokens the largest part is of {_first_two(stack)}."
    )
