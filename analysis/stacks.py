"""Stacked bars: a total by its parts, over sizes or steps, one panel for each series."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.drawing import (
    COLUMN,
    PAGE,
    legend_above,
    legend_rows,
    panels_per_row,
    paper_style,
    plot_text,
    subplots,
)
from analysis.palette import Fill, Role, fills
from analysis.quantities import Unit

# Panels of a figure, in rows of three.
MAX_PANELS = 6
_MAX_BARS = 12
# Characters of a title line, by the number of panels in a row.
_WRAP = {1: 52, 2: 52, 3: 34}


@dataclass(frozen=True, slots=True)
class Stack:
    """Stacked bar.

    Attributes:
        at: Position on the horizontal axis: a size or the number of a step.
        parts: Parts by name, in the records' unit.
    """

    at: float
    parts: Mapping[str, float]

    @property
    def total(self) -> float:
        """Sum of the parts."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class StackPanel:
    """Pair of axes.

    Attributes:
        title: Title.
        stacks: Stacks.
        scale: Name of the vertical scale; panels of one name have the same limits.
    """

    title: str
    stacks: tuple[Stack, ...]
    scale: str = ""

    @property
    def top(self) -> float:
        """Largest total."""
        return max((stack.total for stack in self.stacks), default=0.0)


def in_order(stacks: Sequence[Stack], preferred: Sequence[str]) -> list[str]:
    """Return the names of nonzero parts: `preferred` in its order, then others, largest first."""
    most: dict[str, float] = {}
    for stack in stacks:
        for name, value in stack.parts.items():
            most[name] = max(most.get(name, 0.0), value)
    present = [name for name, value in most.items() if value > 0]
    remaining = sorted(set(present) - set(preferred), key=lambda name: (-most[name], name))
    return [name for name in preferred if name in present] + remaining


def draw_stacks(
    panels: Sequence[StackPanel],
    order: Sequence[str],
    unit: Unit,
    x_label: str,
    y_label: str,
    *,
    role: Role,
    joined: bool = False,
) -> Any:
    """Return a matplotlib figure of stacked bars.

    Args:
        panels: Panels, at most `MAX_PANELS`.
        order: Parts from the bottom up.
        unit: Unit of the vertical axis.
        x_label: Label of the horizontal axis.
        y_label: Label of the vertical axis, without the unit.
        role: Role of the parts, which chooses their fills.
        joined: Whether stacks are plotted without gaps, as for consecutive steps.
    """
    from matplotlib.patches import Patch

    filled = fills(role, order)
    tops: dict[str, float] = {}
    for panel in panels:
        tops[panel.scale] = max(tops.get(panel.scale, 0.0), panel.top / unit.factor)
    with paper_style():
        alone = len(panels) == 1
        width = COLUMN if alone else PAGE
        figure, axes = subplots(len(panels), 2.1, width, legend_rows(order, width))
        for number, (panel, panel_axes) in enumerate(zip(panels, axes, strict=True)):
            (_draw_joined if joined else _draw_bars)(panel_axes, panel.stacks, filled, unit)
            panel_axes.set_title(
                plot_text(panel.title, _WRAP[panels_per_row(len(panels))]), loc="left"
            )
            panel_axes.set_xlabel(x_label)
            panel_axes.yaxis.set_major_formatter(_separated)
            panel_axes.set_ylim(0, 1.04 * tops[panel.scale] or 1.0)
            panel_axes.grid(visible=False, axis="x")
            if number % panels_per_row(len(panels)) == 0:
                panel_axes.set_ylabel(f"{y_label} ({unit.name})")
        handles = [
            Patch(label=plot_text(name), **_style(filling)) for name, filling in filled.items()
        ]
        legend_above(figure, handles)
    return figure


def _separated(value: float, _position: object = None) -> str:
    """Return a number with separators of thousands."""
    return f"{value:,g}"


def _style(filling: Fill) -> dict[str, Any]:
    return {
        "facecolor": filling.colour,
        "hatch": filling.hatch,
        "edgecolor": "0.15",
        "linewidth": 0.3,
    }


def _draw_bars(axes: Any, stacks: Sequence[Stack], fills: Mapping[str, Fill], unit: Unit) -> None:
    bars = _evenly_spaced(stacks)
    positions = range(len(bars))
    bottom = [0.0] * len(bars)
    for name, filling in fills.items():
        heights = [stack.parts.get(name, 0.0) / unit.factor for stack in bars]
        axes.bar(positions, heights, 0.8, bottom, **_style(filling))
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.set_xticks(positions, [f"{stack.at:g}" for stack in bars])
    # A few bars are centred, no wider than three.
    middle, half = (len(bars) - 1) / 2, max(len(bars), 3) / 2 + 0.1
    axes.set_xlim(middle - half, middle + half)
    if len(bars) > 6:
        axes.tick_params(axis="x", labelrotation=45)


def _evenly_spaced(stacks: Sequence[Stack]) -> list[Stack]:
    """Return at most `_MAX_BARS` stacks, the first and the last included."""
    if len(stacks) <= _MAX_BARS:
        return list(stacks)
    step = (len(stacks) - 1) / (_MAX_BARS - 1)
    return [stacks[round(k * step)] for k in range(_MAX_BARS)]


def _draw_joined(axes: Any, stacks: Sequence[Stack], fills: Mapping[str, Fill], unit: Unit) -> None:
    # Every step has width 1, the last one included.
    edges = [stack.at - 0.5 for stack in stacks] + [stacks[-1].at + 0.5]
    bottom = [0.0] * len(edges)
    for name, filling in fills.items():
        heights = [stack.parts.get(name, 0.0) / unit.factor for stack in stacks]
        top = [low + height for low, height in zip(bottom, [*heights, heights[-1]], strict=True)]
        axes.fill_between(edges, bottom, top, step="post", **_style(filling))
        bottom = top
    axes.set_xlim(edges[0], edges[-1])
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
