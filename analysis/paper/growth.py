"""Figure of the growth of costs with the length: local exponents of two systems."""

from itertools import pairwise
from math import log
from typing import Any

import pandas as pd

from analysis.drawing import COLUMN, paper_style
from analysis.guides import label_sizes
from analysis.palette import AF3_FUSED, AF3_REFERENCE, BLOOM
from analysis.paper.plots import axes_of, labels_of, legend_of, plot_curves, share_scale
from analysis.paper.selection import Curve, curve, language_model, require, training

QUANTITIES = {
    "peak_tracked_bytes": "peak memory",
    "hardware_flops": "FLOPs",
    "tensor_bytes": "bytes of operators",
    "kernel_launches": "launches",
}
# Lengths between which exponents are taken, as many as a fit would need.
LENGTHS = (384, 768, 1536, 3072)


def exponents(table: pd.DataFrame) -> Any:
    """Draw the exponent between each length and its double, by quantity.

    The counts are exact, so that the exponents have no margin; they are not constant, so that no
    power law is fitted.
    """
    systems = {
        AF3_FUSED: training(table, "triton"),
        BLOOM: language_model(table),
    }
    require(*systems.values())
    for rows in systems.values():
        require(rows[rows["tokens"] == LENGTHS[-1]], rows[rows["tokens"] == LENGTHS[-2]])
    reference = curve(AF3_REFERENCE, training(table, "reference"), "peak_tracked_bytes")
    with paper_style():
        names = labels_of([reference._replace(system=name) for name in systems])
        figure, panels = axes_of(4, names, height=1.5, width=COLUMN)
        for axes, (column, title) in zip(panels, QUANTITIES.items(), strict=True):
            for name, rows in systems.items():
                plot_curves(axes, [local_exponents(curve(name, rows, column))])
            axes.set_xscale("log")
            label_sizes(axes, LENGTHS[1:])
            axes.set_xlim(650, 3_600)
            axes.axhline(0, color="0.6", lw=0.6)
            axes.set_title(title, loc="left")
        share_scale(panels)
        for axes in panels[2:]:
            axes.set_xlabel("tokens N")
        for axes in panels[::2]:
            axes.set_ylabel("exponent, N/2 to N", fontsize=7)
        legend_of(figure, panels)
    return figure


def local_exponents(line: Curve) -> Curve:
    """Return the exponents between successive `LENGTHS`, at the longer one."""
    points = [(size, value) for size, value in line.points if size in LENGTHS]
    slopes = [
        (longer, log(larger / value) / log(longer / size))
        for (size, value), (longer, larger) in pairwise(points)
    ]
    return line._replace(points=slopes)
