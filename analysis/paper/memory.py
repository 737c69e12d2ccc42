"""Figures of memory: by state, by operator, and its peak against the length."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.drawing import PAGE, paper_style
from analysis.nested import parts
from analysis.palette import (
    AF3_FUSED,
    AF3_REFERENCE,
    BLOOM,
    PUBLISHED_EAGER,
    PUBLISHED_MEGAFOLD,
    STATES,
    fills,
)
from analysis.paper.plots import (
    GIB,
    axes_of,
    horizontal,
    labels_of,
    legend_of,
    logarithmic,
    plot_curves,
    stacked_bars,
)
from analysis.paper.published_curves import published_curve, published_points
from analysis.paper.selection import (
    curve,
    language_model,
    require,
    select,
    training,
)

# Memory of devices, as sold.
_DEVICES = {"80 GB": 80e9, "141 GB": 141e9}
_TOKENS = (128, 256, 384, 512, 640, 768)
# Operators of AlphaFold 3 by a part of the path of their modules; the first that matches counts.
_OPERATORS: Mapping[str, tuple[str, ...]] = {
    "triangle attention": ("triangle_attention",),
    "triangle multiplication": ("triangle_multiplication",),
    "diffusion transformer": ("diffusion.transformer",),
    "atom attention": ("atom_encoder", "atom_decoder"),
    "MSA products": ("outer_product_mean", "pair_weighted_averaging"),
    "transition": ("transition",),
    "single attention": ("attention",),
}
OTHER = "other"


def peak_memory(table: pd.DataFrame) -> Any:
    """Draw the peak of a training step against its length."""
    reference, fused = training(table, "reference"), training(table, "triton")
    bloom = language_model(table)
    require(reference, fused, bloom)
    ours = [
        curve(AF3_REFERENCE, reference, "peak_tracked_bytes"),
        curve(AF3_FUSED, fused, "peak_tracked_bytes"),
        curve(BLOOM, bloom, "peak_tracked_bytes"),
    ]
    published = [
        published_curve(PUBLISHED_EAGER, "peak memory allocated, H200", "PyTorch"),
        published_curve(PUBLISHED_MEGAFOLD, "peak memory allocated, H200", "MegaFold"),
    ]
    curves = [line.scaled(GIB) for line in (*ours, *published)]
    with paper_style():
        figure, (axes,) = axes_of(1, labels_of(curves), height=2.4)
        plot_curves(axes, curves)
        sizes = [size for line in ours for size, _ in line.points]
        logarithmic(axes, sizes, "tokens N", "peak memory (GiB)")
        for text, memory in _DEVICES.items():
            horizontal(axes, memory / GIB, text)
        legend_of(figure, [axes])
    return figure


def memory_by_state(table: pd.DataFrame) -> Any:
    """Draw the parts of the peak by state against the length, of three systems on one scale."""
    systems = {
        AF3_REFERENCE: training(table, "reference"),
        AF3_FUSED: training(table, "triton"),
        BLOOM: language_model(table),
    }
    require(*systems.values())
    stacks = {name: _by_state(rows) for name, rows in systems.items()}
    present = [s for s in STATES if any(stack.get(s) is not None for stack in stacks.values())]
    filled = fills("state", present)
    with paper_style():
        figure, panels = axes_of(3, present, height=2.2, width=PAGE)
        for axes, (name, stack) in zip(panels, stacks.items(), strict=True):
            sizes = list(stack.index)
            heights = {s: [float(v) / GIB for v in stack[s]] for s in present if s in stack}
            stacked_bars(axes, range(len(sizes)), heights, filled)
            axes.set_xticks(range(len(sizes)), [f"{size:,}" for size in sizes])
            axes.set_title(name, loc="left")
            axes.set_xlabel("tokens N")
        top = max(axes.get_ylim()[1] for axes in panels)
        for axes in panels:
            axes.set_ylim(0, top)
        panels[0].set_ylabel("peak memory, traced (GiB)")
        legend_of(figure, panels)
    return figure


def _by_state(rows: pd.DataFrame) -> pd.DataFrame:
    """Return bytes by length and state, at the common lengths."""
    near = rows[rows["tokens"].isin(_TOKENS)]
    return (
        parts(near, "peak_tracked_bytes")
        .pivot_table(
            index="tokens",
            columns="part",
            values="peak_tracked_bytes",
            aggfunc="last",
            observed=True,
        )
        .fillna(0)
    )


def memory_at_768(table: pd.DataFrame) -> Any:
    """Draw the states of the peak at 768 tokens as bars of three systems."""
    systems = {
        AF3_REFERENCE: training(table, "reference", tokens=768),
        AF3_FUSED: training(table, "triton", tokens=768),
        BLOOM: select(language_model(table), tokens=768),
    }
    require(*systems.values())
    stacks = {name: _by_state(rows) for name, rows in systems.items()}
    present = [s for s in STATES if any(s in stack for stack in stacks.values())]
    filled = fills("state", present)
    with paper_style():
        figure, (axes,) = axes_of(1, _visible(present, stacks), height=1.5)
        left = [0.0] * len(stacks)
        named = _visible(present, stacks)
        for state in present:
            widths = [
                float(stack[state].iloc[-1]) / GIB if state in stack else 0.0
                for stack in stacks.values()
            ]
            axes.barh(
                range(len(stacks)),
                widths,
                0.7,
                left,
                label=state if state in named else None,
                facecolor=filled[state].colour,
                hatch=filled[state].hatch,
                edgecolor="0.15",
                linewidth=0.3,
            )
            left = [a + b for a, b in zip(left, widths, strict=True)]
        for y, total in enumerate(left):
            axes.annotate(f" {total:.1f}", (total, y), va="center", fontsize=6.5)
        axes.set_yticks(range(len(stacks)), list(stacks))
        axes.set_ylim(len(stacks) - 0.5, -0.5)
        axes.set_xlim(0, max(left) * 1.15)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("peak memory at 768 tokens, traced (GiB)")
        legend_of(figure, [axes])
    return figure


def _visible(states: Sequence[str], stacks: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return the states that are large enough in some bar to be seen."""
    most = max(float(stack.iloc[-1].sum()) for stack in stacks.values())
    return [
        state
        for state in states
        if any(stack[state].iloc[-1] > 0.005 * most for stack in stacks.values() if state in stack)
    ]


def activations_by_operator(table: pd.DataFrame) -> Any:
    """Draw the activations of a step that saves all of them, by operator."""
    rows = training(table, "reference", checkpointing=False)
    named = {
        int(row["tokens"]): by_operator(row["record"]["notes"]["activation_bytes_by_path"])
        for _, row in rows.iterrows()
        if "activation_bytes_by_path" in row["record"]["notes"]
    }
    require(rows if named else rows.iloc[:0])
    names = [name for name in (*_OPERATORS, OTHER) if any(name in v for v in named.values())]
    filled = fills("module", names)
    heights = {name: [by.get(name, 0) / GIB for by in named.values()] for name in names}
    published = published_points("activations of attention over pairs", "AlphaFold 3, PyTorch")
    with paper_style():
        figure, (axes,) = axes_of(1, [*names, "published: attention"], height=2.3)
        stacked_bars(axes, range(len(named)), heights, filled)
        places = [list(named).index(int(at)) for at, _ in published if int(at) in named]
        values = [value / GIB for at, value in published if int(at) in named]
        axes.plot(
            places,
            values,
            "*",
            color="#222222",
            markeredgecolor="white",
            ms=7,
            label="published: attention",
        )
        axes.set_xticks(range(len(named)), [f"{tokens:,}" for tokens in named])
        axes.set_xlabel("tokens N")
        axes.set_ylabel("activations, traced (GiB)")
        legend_of(figure, [axes])
    return figure


def by_operator(paths: Mapping[str, int]) -> dict[str, int]:
    """Return bytes by operator of AlphaFold 3 from those by the path of a module."""
    operators: Counter[str] = Counter()
    for path, nbytes in paths.items():
        name = next(
            (name for name, words in _OPERATORS.items() if any(word in path for word in words)),
            OTHER,
        )
        operators[name] += nbytes
    return dict(operators)
