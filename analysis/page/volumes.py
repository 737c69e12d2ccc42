"""Figure of the bytes that ranks send for triangle multiplications: traced, and predicted."""

from collections.abc import Mapping
from typing import Any

from analysis.drawing import paper_style
from analysis.methods import PREDICTED, TRACED
from analysis.palette import AF3_REFERENCE, AF3_SHARDED
from analysis.paper.plots import axes_of, labels_of, legend_of, plot_curves
from analysis.paper.selection import Curve

Values = Mapping[int, float]


def draw_volumes(traced: Values, predicted: Values) -> Any:
    """Return the figure.

    Args:
        traced: Bytes for each pair of tokens by number of ranks, of this system. Unit: B.
        predicted: The same of a scheme that gathers an operand, from closed forms. Unit: B.
    """
    ours = Curve(AF3_SHARDED, TRACED, sorted((float(p), b / 1e3) for p, b in traced.items()))
    gathered = Curve(
        AF3_REFERENCE, PREDICTED, sorted((float(p), b / 1e3) for p, b in predicted.items())
    )
    with paper_style():
        figure, (axes,) = axes_of(1, labels_of([ours, gathered]))
        plot_curves(axes, [ours, gathered])
        for line, label in zip(axes.lines, ("ours (traced)", "DAP (predicted)"), strict=True):
            line.set_label(label)
        axes.set_xscale("log", base=2)
        ranks = sorted(traced)
        axes.set_xticks(ranks, [f"{p}" for p in ranks])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("devices P that divide an example")
        axes.set_ylabel("sent by a rank (kB per token pair)")
        legend_of(figure, [axes])
    return figure
