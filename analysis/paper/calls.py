"""Figures of calls by kind of operator, and of the ideas left out one by one."""

from typing import Any

import pandas as pd

from analysis.drawing import PAGE, paper_style
from analysis.methods import TRACED
from analysis.nested import parts
from analysis.palette import AF3_FUSED, AF3_REFERENCE, BLOOM, system_style
from analysis.paper.paper_cases import TRAINING
from analysis.paper.plots import GIB, axes_of, label_of, legend_of, thousands
from analysis.paper.published_curves import published_number
from analysis.paper.selection import Curve, idea_left_out, language_model, require, select, training

TOKENS = 384
# A row each, with what was published of it.
_KINDS = {
    "linear": "kernel calls of linear layers in an iteration",
    "batched_matmul": "",
    "attention": "",
    "normalization": "kernel calls of layer normalization in an iteration",
    "softmax": "",
    "activation": "kernel calls of activations in an iteration",
    "elementwise": "",
    "copy": "",
    "reduction": "",
    "indexing": "",
    "other": "",
}
_PUBLISHED = "published: AF3"
# Position of no call on a logarithmic axis.
_NONE_AT = 0.5
_ABLATIONS = (
    ("peak memory (GiB)", "peak_tracked_bytes", GIB),
    ("kernel launches (thousands)", "kernel_launches", 1e3),
    ("predicted step, H200 (ms)", "predicted_step_time_s", 1e-3),
)


def calls_by_operator(table: pd.DataFrame) -> Any:
    """Draw the calls of a step at 384 tokens by kind of operator, of three systems."""
    systems = {
        AF3_REFERENCE: training(table, "reference", tokens=TOKENS),
        AF3_FUSED: training(table, "triton", tokens=TOKENS),
        BLOOM: select(language_model(table), tokens=TOKENS),
    }
    require(*systems.values())
    counts = {
        name: parts(rows.tail(1), "operator_calls").set_index("part")["operator_calls"]
        for name, rows in systems.items()
    }
    labels = [label_of(Curve(name, TRACED, [])) for name in systems] + [_PUBLISHED]
    with paper_style():
        figure, (axes,) = axes_of(1, labels, height=2.6)
        axes.set_xscale("log")
        for (name, calls), label in zip(counts.items(), labels, strict=False):
            style = {**system_style(name, TRACED), "linestyle": ""}
            offset = 0.22 * (list(counts).index(name) - 1)
            values = [max(float(calls.get(kind, 0)), _NONE_AT) for kind in _KINDS]
            axes.plot(values, [y + offset for y in range(len(_KINDS))], label=label, **style)
        published = [
            (number, y)
            for y, figure_name in enumerate(_KINDS.values())
            if (number := published_number(figure_name, "AlphaFold 3, PyTorch")) is not None
        ]
        axes.plot(*zip(*published, strict=True), "*", color="#222222", label=_PUBLISHED, ms=5)
        axes.set_yticks(range(len(_KINDS)), [kind.replace("_", " ") for kind in _KINDS])
        axes.set_ylim(len(_KINDS) - 0.5, -0.5)
        ticks = [1, 10, 100, 1_000, 10_000, 100_000]
        axes.set_xticks([_NONE_AT, *ticks[1:]], ["none", *(f"{tick:,}" for tick in ticks[1:])])
        axes.minorticks_off()
        axes.set_xlim(_NONE_AT / 1.5, 1.5e5)
        axes.set_xlabel(f"operator calls in a step of {TOKENS} tokens")
        legend_of(figure, [axes])
    return figure


def ablation(table: pd.DataFrame) -> Any:
    """Draw memory, launches and predicted time of the fused step without each idea in turn."""
    fused = training(table, "triton", tokens=TOKENS)
    plain = training(table, "reference", tokens=TOKENS)
    unrecomputed = training(table, "triton", tokens=TOKENS, checkpointing=False)
    partial = without_an_idea(table)
    require(fused, plain, unrecomputed, partial)
    bars = {"all ideas": fused.iloc[-1]}
    bars |= {f"no {idea_left_out(row['record'])}": row for _, row in partial.iterrows()}
    bars |= {"no recomputation": unrecomputed.iloc[-1], "no fusion (reference)": plain.iloc[-1]}
    with paper_style():
        figure, panels = axes_of(3, [], height=2.0, width=PAGE)
        for axes, (label, column, unit) in zip(panels, _ABLATIONS, strict=True):
            values = [float(row[column]) / unit for row in bars.values()]
            colours = ["#0072B2", *["#BFD9EA"] * (len(bars) - 1)]
            axes.barh(range(len(bars)), values, 0.7, color=colours, edgecolor="0.15", linewidth=0.3)
            axes.axvline(values[0], color="#0072B2", lw=0.8, ls=":")
            for y, value in enumerate(values):
                axes.annotate(
                    f"{value:,.4g}",
                    (value, y),
                    (3, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=6.5,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
                )
            axes.set_yticks(range(len(bars)), list(bars) if axes is panels[0] else [])
            axes.set_ylim(len(bars) - 0.5, -0.5)
            axes.set_xlim(0, 1.25 * max(values))
            axes.xaxis.set_major_formatter(thousands)
            axes.grid(visible=False, axis="y")
            axes.set_xlabel(label)
    return figure


def without_an_idea(table: pd.DataFrame) -> pd.DataFrame:
    """Return the simulated steps that leave an idea out, the newest of each."""
    rows = select(table, workload=TRAINING, preset="full", tokens=TOKENS, status="ok")
    ideas = pd.Series([idea_left_out(record) for record in rows["record"]], index=rows.index)
    return (
        rows.loc[(ideas != "").astype(bool)].assign(idea=ideas).drop_duplicates("idea", keep="last")
    )
