"""What helps to read logarithmic axes: ticks at the sizes there are, slopes to compare with."""

from collections.abc import Sequence
from math import log10
from typing import Any

import numpy as np

Curve = tuple[Sequence[float], Sequence[float]]

_MOST_TICKS = 9
_SLOPES = ((1, "$N$"), (2, "$N^2$"), (3, "$N^3$"))


def label_sizes(axes: Any, sizes: Sequence[float]) -> None:
    """Ticks at sizes, as many as have room, on a logarithmic horizontal axis."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    ticks = _with_room(sizes)
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    if len(ticks) > 6:
        axes.tick_params(axis="x", labelrotation=45)


def _with_room(sizes: Sequence[float]) -> list[float]:
    """The sizes whose labels do not touch: the ends, then those with the most factors of two."""
    if len(sizes) < 2:
        return list(sizes)
    apart = log10(sizes[-1] / sizes[0]) / _MOST_TICKS
    roundest = sorted(sizes[1:-1], key=lambda size: (-(int(size) & -int(size)), size))
    kept: list[float] = []
    for size in (sizes[0], sizes[-1], *roundest):
        if all(abs(log10(size / other)) >= apart for other in kept):
            kept.append(size)
    return sorted(kept)


def label_values(axes: Any) -> None:
    """Ticks at 1, 2 and 5 or at powers of ten alone, on a logarithmic vertical axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_ylim()
    subs = (1, 2, 5) if high / low < 3e3 else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def draw_guides(axes: Any, drawn: Sequence[Curve]) -> None:
    """Short lines of slope 1, 2 and 3 in a corner that no curve crosses.

    Args:
        axes: Logarithmic both ways.
        drawn: What is there, as sizes and values on the axes' scale.
    """
    left, right = (log10(limit) for limit in axes.get_xlim())
    low, high = (log10(limit) for limit in axes.get_ylim())
    # So wide that their ends are apart, as far as that goes.
    steep = 3 * (right - left) / (high - low)
    width = min(max(0.2, 0.2 / steep), 0.32 / steep, 0.4)
    rise = steep * width
    if width < 0.03 or rise < 0.15:
        return
    corners = [(0.04, 0.96 - rise), (0.9 - width, 0.05)]
    free = [corner for corner in corners if not _crossed(axes, drawn, corner, width, rise)]
    if not free:
        # Room above everything.
        axes.set_ylim(top=10 ** (high + (high - low) * 0.5 * rise / (1 - rise) + 0.02))
        high = log10(axes.get_ylim()[1])
        rise = 3 * (right - left) / (high - low) * width
        free = [(0.04, 0.96 - rise)]
    x, y = free[0]
    start = (10 ** (left + x * (right - left)), 10 ** (low + y * (high - low)))
    factor = 10 ** (width * (right - left))
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
    axes: Any, drawn: Sequence[Curve], corner: tuple[float, float], width: float, rise: float
) -> bool:
    """Whether a curve comes near the corner in which guides would stand."""
    left, right = np.log10(axes.get_xlim())
    low, high = np.log10(axes.get_ylim())
    for sizes, values in drawn:
        at, heights = np.log10(sizes), np.log10(np.maximum(values, 10**low))
        among = np.linspace(at[0], at[-1], 60)
        xs = (among - left) / (right - left)
        ys = (np.interp(among, at, heights) - low) / (high - low)
        beside = (xs > corner[0] - 0.04) & (xs < corner[0] + width + 0.12)
        if (beside & (ys > corner[1] - 0.06) & (ys < corner[1] + rise + 0.06)).any():
            return True
    return False
