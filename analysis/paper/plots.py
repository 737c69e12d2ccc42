"""Parts that the paper's figures share: axes, curves with the marks of their method, legends."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from analysis.drawing import (
    COLUMN,
    LEGEND_ROW,
    PAGE,
    legend_above,
    legend_rows,
    subplots,
)
from analysis.guides import label_sizes, label_values
from analysis.palette import Fill, system_style
from analysis.paper.selection import Curve

GIB = 2**30
# Legends take less than a fifth of a figure.
_LEGEND_SHARE = 0.2
_MARGIN = 0.1
_FAILED = "out of memory"


def axes_of(
    panels: int, legend: Sequence[str], *, height: float = 2.3, width: float = 0
) -> tuple[Any, list[Any]]:
    """Return a figure and its axes, with room for a legend above them.

    Args:
        panels: Number of axes: one is as wide as a column, more as wide as the page.
        legend: Labels of the legend.
        height: Least height of a row, in inches.
        width: Width in inches; 0 follows from the number of panels.
    """
    width = width or (COLUMN if panels == 1 else PAGE)
    rows = legend_rows(legend, width)
    # Padding around the legend counts as legend.
    least = (LEGEND_ROW * rows + _MARGIN) * (1 / _LEGEND_SHARE - 1)
    return subplots(panels, max(height, least), width, rows)


def label_of(curve: Curve) -> str:
    """Return the label of a curve: its system and the method of its numbers."""
    return curve.system if curve.method == "published" else f"{curve.system} ({curve.method})"


def plot_curves(axes: Any, curves: Iterable[Curve]) -> None:
    """Plot curves with the style of their system and method.

    A red cross at the height of the last value marks the first size that ran out of memory.
    """
    for curve in curves:
        if not curve.points:
            continue
        style = system_style(curve.system, curve.method)
        axes.plot(*zip(*curve.points, strict=True), label=label_of(curve), **style)
        for size in curve.failed[:1]:
            last = curve.points[-1][1]
            axes.plot([size], [last], "X", color="#CC0000", ms=4.5, mew=0, zorder=4, label=_FAILED)


def labels_of(curves: Iterable[Curve]) -> list[str]:
    """Return the labels of the curves that have points, and of the crosses."""
    shown = [curve for curve in curves if curve.points]
    failed = [_FAILED] if any(curve.failed for curve in shown) else []
    return [label_of(curve) for curve in shown] + failed


def logarithmic(axes: Any, sizes: Iterable[float], x_label: str, y_label: str) -> None:
    """Set both axes logarithmic, with ticks at the sizes."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    label_sizes(axes, sorted(set(sizes)))
    label_values(axes)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)


def share_scale(panels: Sequence[Any]) -> None:
    """Give all panels the vertical limits of the widest."""
    limits = [panel.get_ylim() for panel in panels]
    low, high = min(low for low, _ in limits), max(high for _, high in limits)
    for panel in panels:
        panel.set_ylim(low, high)


def legend_of(figure: Any, panels: Sequence[Any]) -> None:
    """Add one legend of all panels above them, each label once."""
    handles: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    ordered = sorted(handles, key=lambda label: label == _FAILED)
    legend_above(figure, [handles[label] for label in ordered])


def horizontal(axes: Any, value: float, text: str) -> None:
    """Plot a thin horizontal line with a text at its left end."""
    axes.axhline(value, color="0.3", lw=0.7, zorder=1)
    axes.annotate(
        text,
        (0.01, value),
        xycoords=("axes fraction", "data"),
        xytext=(0, 1.5),
        textcoords="offset points",
        fontsize=6,
        color="0.3",
    )


def stacked_bars(
    axes: Any,
    positions: Sequence[float],
    parts: Mapping[str, Sequence[float]],
    filled: Mapping[str, Fill],
    *,
    width: float = 0.75,
) -> None:
    """Plot stacked bars, the first part at the bottom."""
    bottom = [0.0] * len(positions)
    for name, heights in parts.items():
        axes.bar(
            positions,
            heights,
            width,
            bottom,
            label=name,
            facecolor=filled[name].colour,
            hatch=filled[name].hatch,
            edgecolor="0.15",
            linewidth=0.3,
        )
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.grid(visible=False, axis="x")


def thousands(value: float, _position: object = None) -> str:
    """Return a number for an axis, with separators of thousands."""
    return f"{value:,.0f}" if value >= 10 else f"{value:,g}"
