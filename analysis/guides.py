"""Ticks and slope guides of logarithmic axes."""

from collections.abc import Sequence
from math import log10
from typing import Any

import numpy as np

Curve = tuple[Sequence[float], Sequence[float]]

_MAX_TICKS = 9
_SLOPES = ((1, "$N$"), (2, "$N^2$"), (3, "$N^3$"))


def label_sizes(axes: Any, sizes: Sequence[float]) -> None:
    """Set ticks of a logarithmic horizontal axis at `sizes`, as many as fit."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    ticks = _readable_ticks(sizes)
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    if len(ticks) > 6:
        axes.tick_params(axis="x", labelrotation=45)


def _readable_ticks(sizes: Sequence[float]) -> list[float]:
    """Return sizes whose labels do not overlap: the ends, then those with most factors of two."""
    if len(sizes) < 2:
        return list(sizes)
    distance = log10(sizes[-1] / sizes[0]) / _MAX_TICKS
    roundest = sorted(sizes[1:-1], key=lambda size: (-(int(size) & -int(size)), size))
    ticks: list[float] = []
    for size in (sizes[0], sizes[-1], *roundest):
        if all(abs(log10(size / tick)) >= distance for tick in ticks):
            ticks.append(size)
    return sorted(ticks)


def label_values(axes: Any) -> None:
    """Set ticks of a logarithmic vertical axis at 1, 2 and 5, or at powers of ten alone."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_ylim()
    subs = (1, 2, 5) if high / low < 3e3 else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def draw_guides(axes: Any, curves: Sequence[Curve]) -> None:
    """Plot short lines of slope 1, 2 and 3 in a corner that no curve crosses.

    Args:
        axes: Axes, both logarithmic.
        curves: Sizes and values of the plotted curves, on the axes' scale.
    """
    first, last = (log10(limit) for limit in axes.get_xlim())
    low, high = (log10(limit) for limit in axes.get_ylim())
    # Wide enough to separate their ends, within limits.
    steep = 3 * (last - first) / (high - low)
    width = min(max(0.2, 0.2 / steep), 0.32 / steep, 0.4)
    rise = steep * width
    if width < 0.03 or rise < 0.15:
        return
    corners = [(0.04, 0.96 - rise), (0.9 - width, 0.05)]
    free = [corner for corner in corners if not _crossed(axes, curves, corner, width, rise)]
    if not free:
        # Both corners are crossed: extend the axes upwards.
        axes.set_ylim(top=10 ** (high + (high - low) * 0.5 * rise / (1 - rise) + 0.02))
        high = log10(axes.get_ylim()[1])
        rise = 3 * (last - first) / (high - low) * width
        free = [(0.04, 0.96 - rise)]
    x, y = free[0]
    start = (10 ** (first + x * (last - first)), 10 ** (low + y * (high - low)))
    factor = 10 ** (width * (last - first))
    for exponent, name in _SLOPES:
        end = (start[0] * factor, start[1] * factor**exponent)
        axes.plot(*zip(start, end, strict=True), color="0.55", lw=0.7, zorder=1)
        axes.annotate(
            name,
            end,
            xytext=(2, 0),
            textcoords="offset points",
            fontsize=5.5,
            color="0.4",
            va="center",
        )


def _crossed(
    axes: Any, curves: Sequence[Curve], corner: tuple[float, float], width: float, rise: float
) -> bool:
    """Return whether a curve comes near the corner for the guides."""
    first, last = np.log10(axes.get_xlim())
    low, high = np.log10(axes.get_ylim())
    for sizes, values in curves:
        log_sizes, log_values = np.log10(sizes), np.log10(np.maximum(values, 10**low))
        samples = np.linspace(log_sizes[0], log_sizes[-1], 60)
        xs = (samples - first) / (last - first)
        ys = (np.interp(samples, log_sizes, log_values) - low) / (high - low)
        near = (xs > corner[0] - 0.04) & (xs < corner[0] + width + 0.12)
        if (near & (ys > corner[1] - 0.06) & (ys < corner[1] + rise + 0.06)).any():
            return True
    return False
