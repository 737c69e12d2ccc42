"""Stacks: what a whole is made of, in bars or over steps, one panel for each series."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.drawing import (
    COLUMN,
    PAGE,
    Fill,
    fill,
    in_a_row,
    legend_above,
    legend_rows,
    plain,
    styled,
    subplots,
)
from analysis.quantities import Unit

# So many panels a figure holds, in rows of three.
MOST_PANELS = 6
_MOST_BARS = 12
# Characters of a title, by panels in a row.
_WRAP = {1: 52, 2: 52, 3: 34}


@dataclass(frozen=True, slots=True)
class Stack:
    """One whole.

    Attributes:
        at: Where it stands, as in a size.
        parts: Its parts by name, in the records' unit.
    """

    at: float
    parts: Mapping[str, float]

    @property
    def whole(self) -> float:
        """The sum of its parts."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class StackPanel:
    """One pair of axes."""

    title: str
    stacks: tuple[Stack, ...]


def in_order(stacks: Sequence[Stack], known: Sequence[str]) -> list[str]:
    """The parts that some stacks have: those known in their order, then others, largest first."""
    most: dict[str, float] = {}
    for stack in stacks:
        for name, value in stack.parts.items():
            most[name] = max(most.get(name, 0.0), value)
    there = [name for name, value in most.items() if value > 0]
    others = sorted(set(there) - set(known), key=lambda name: (-most[name], name))
    return [name for name in known if name in there] + others


def draw_stacks(
    panels: Sequence[StackPanel],
    order: Sequence[str],
    unit: Unit,
    x_label: str,
    y_label: str,
    *,
    joined: bool = False,
) -> Any:
    """A matplotlib figure of stacked bars.

    Args:
        panels: At most `MOST_PANELS`.
        order: Parts from the bottom up; each has one look in all panels.
        unit: Of the vertical axis.
        x_label: What stacks are over.
        y_label: What they are of.
        joined: Whether they follow each other without gaps, as steps do.
    """
    from matplotlib.patches import Patch

    fills = {name: fill(number) for number, name in enumerate(order)}
    with styled():
        alone = len(panels) == 1
        width = COLUMN if alone else PAGE
        figure, axes = subplots(len(panels), 2.1, width, legend_rows(order, width))
        for number, (panel, each) in enumerate(zip(panels, axes, strict=True)):
            (_join if joined else _bars)(each, panel.stacks, fills, unit)
            each.set_title(plain(panel.title, _WRAP[in_a_row(len(panels))]), loc="left")
            each.set_xlabel(x_label)
            each.set_ylim(bottom=0)
            each.grid(visible=False, axis="x")
            if number % in_a_row(len(panels)) == 0:
                each.set_ylabel(f"{y_label} ({unit.name})")
        handles = [Patch(label=plain(name), **_style(how)) for name, how in fills.items()]
        legend_above(figure, handles)
    return figure


def _style(how: Fill) -> dict[str, Any]:
    return {"facecolor": how.colour, "hatch": how.hatch, "edgecolor": "0.15", "linewidth": 0.3}


def _bars(axes: Any, stacks: Sequence[Stack], fills: Mapping[str, Fill], unit: Unit) -> None:
    shown = _spread(stacks)
    places = range(len(shown))
    bottom = [0.0] * len(shown)
    for name, how in fills.items():
        heights = [stack.parts.get(name, 0.0) / unit.factor for stack in shown]
        axes.bar(places, heights, 0.8, bottom, **_style(how))
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.set_xticks(places, [f"{stack.at:g}" for stack in shown])
    # A few bars stand in the middle, no wider than among many.
    middle, half = (len(shown) - 1) / 2, max(len(shown), 3) / 2 + 0.1
    axes.set_xlim(middle - half, middle + half)
    if len(shown) > 6:
        axes.tick_params(axis="x", labelrotation=45)


def _spread(stacks: Sequence[Stack]) -> list[Stack]:
    """As many as have room, the first and the last among them."""
    if len(stacks) <= _MOST_BARS:
        return list(stacks)
    step = (len(stacks) - 1) / (_MOST_BARS - 1)
    return [stacks[round(k * step)] for k in range(_MOST_BARS)]


def _join(axes: Any, stacks: Sequence[Stack], fills: Mapping[str, Fill], unit: Unit) -> None:
    # Each step is as wide as the next one is away, the last one too.
    edges = [stack.at - 0.5 for stack in stacks] + [stacks[-1].at + 0.5]
    bottom = [0.0] * len(edges)
    for name, how in fills.items():
        heights = [stack.parts.get(name, 0.0) / unit.factor for stack in stacks]
        top = [low + height for low, height in zip(bottom, [*heights, heights[-1]], strict=True)]
        axes.fill_between(edges, bottom, top, step="post", **_style(how))
        bottom = top
    axes.set_xlim(edges[0], edges[-1])
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
