"""Figures of single operators: microbenchmarks, roofline, compiled resources."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.drawing import PAGE, paper_style
from analysis.guides import label_values
from analysis.methods import PREDICTED, TRACED
from analysis.palette import (
    AF3_FUSED,
    AF3_REFERENCE,
    PUBLISHED_DS4SCI,
    PUBLISHED_EAGER,
    PUBLISHED_MEGAFOLD,
    system_style,
)
from analysis.paper.paper_cases import MICROBENCHMARKS, OPERATORS
from analysis.paper.plots import (
    axes_of,
    labels_of,
    legend_of,
    logarithmic,
    plot_curves,
    share_scale,
    thousands,
)
from analysis.paper.published_curves import published_curve
from analysis.paper.selection import Curve, require, select

_MIB = 2**20
_TITLES: Mapping[str, str] = {
    "triangle_attention": "attention",
    "layer_norm_linear": "LayerNorm and linear",
    "transition": "transition",
}
_AXES = {
    "triangle_attention": "tokens",
    "layer_norm_linear": "rows (thousands)",
    "transition": "rows (thousands)",
}
_BACKENDS = {"reference": AF3_REFERENCE, "triton": AF3_FUSED}
_ROOFLINE_TOKENS = 768
# Products of matrices in forward and backward, in those of forward.
_PASSES = 3.5


def microbenchmarks(table: pd.DataFrame) -> Any:
    """Draw time and memory of three operators at the shapes of MegaFold's microbenchmarks."""
    rows = select(table, workload=MICROBENCHMARKS, precision="bfloat16", status="ok")
    rows = rows[rows["backward"].astype(bool)] if len(rows) else rows
    require(rows)
    labels = [f"{name.removeprefix('AF3, ')}" for name in _BACKENDS.values()]
    with paper_style():
        figure, panels = axes_of(6, labels, height=1.7, width=PAGE)
        for column, operator in enumerate(_TITLES):
            of_operator = rows[rows["operator"] == operator]
            top, bottom = panels[column], panels[column + 3]
            _microbenchmark(top, of_operator, "predicted_step_time_s", 1e-3, PREDICTED)
            _microbenchmark(bottom, of_operator, "peak_tracked_bytes", _MIB, TRACED)
            top.set_title(_TITLES[operator], loc="left")
            bottom.set_xlabel(_AXES[operator])
        for row in (panels[:3], panels[3:]):
            share_scale(row)
            for axes in row:
                label_values(axes)
        panels[0].set_ylabel("time, predicted (ms)")
        panels[3].set_ylabel("memory, traced (MiB)")
        legend_of(figure, panels)
    return figure


def attention_rate(table: pd.DataFrame) -> Any:
    """Draw the rate of attention, forward and backward, at MegaFold's shapes beside its numbers."""
    rows = select(
        table,
        workload=MICROBENCHMARKS,
        operator="triangle_attention",
        precision="bfloat16",
        status="ok",
    )
    require(rows)
    ours = []
    for backend, system in _BACKENDS.items():
        of_backend = rows[rows["backend"] == backend]
        points = [
            (
                float(row["length"]),
                _PASSES * row["costs_forward_flops"] / row["predicted_step_time_s"],
            )
            for _, row in of_backend.iterrows()
        ]
        ours.append(Curve(system, PREDICTED, sorted(points)))
    published = [
        published_curve(name, "attention microbenchmark, forward and backward", system)
        for name, system in (
            (PUBLISHED_EAGER, "PyTorch"),
            (PUBLISHED_DS4SCI, "DS4Sci"),
            (PUBLISHED_MEGAFOLD, "MegaFold"),
        )
    ]
    curves = [line.scaled(1e12) for line in (*ours, *published)]
    with paper_style():
        figure, (axes,) = axes_of(1, labels_of(curves))
        plot_curves(axes, curves)
        sizes = [size for line in curves for size, _ in line.points]
        logarithmic(axes, sizes, "tokens N", "attention (TFLOP/s)")
        legend_of(figure, [axes])
    return figure


def _microbenchmark(axes: Any, rows: pd.DataFrame, column: str, unit: float, method: str) -> None:
    scale = 1 if rows["length"].max() < 10_000 else 1e3
    for backend, system in _BACKENDS.items():
        of_backend = rows[rows["backend"] == backend].sort_values("length")
        axes.plot(
            of_backend["length"] / scale,
            of_backend[column].astype(float) / unit,
            label=f"{system.removeprefix('AF3, ')}",
            **system_style(system, method),
        )
    axes.set_yscale("log")
    if scale == 1:
        axes.set_xscale("log", base=2)
        lengths = sorted(rows["length"].unique())
        axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
        axes.tick_params(axis="x", labelrotation=45)


def roofline(table: pd.DataFrame) -> Any:
    """Draw the rate of each fused operator against its arithmetic intensity."""
    rows = select(
        table,
        workload=OPERATORS,
        preset="full",
        backend="triton",
        tokens=_ROOFLINE_TOKENS,
        status="ok",
    )
    rows = rows.loc[_noted(rows)]
    require(rows)
    notes = rows.iloc[-1]["record"]["notes"]
    peak, bandwidth = notes["device_flops_per_s"]["bfloat16"], notes["device_bytes_per_s"]
    with paper_style():
        figure, (axes,) = axes_of(1, [], height=3.0)
        points = []
        for _, row in rows.iterrows():
            if pd.isna(row["hardware_flops"]):
                # No products of matrices: it has no place on the roofline.
                continue
            flops, nbytes = float(row["hardware_flops"]), float(row["tensor_bytes"])
            rate = flops / float(row["predicted_step_time_s"])
            points.append((flops / nbytes, rate / 1e12, str(row["operator"])))
        low = min(x for x, _, _ in points) / 2
        high = 2 * max(*(x for x, _, _ in points), peak / bandwidth)
        xs = [low, peak / bandwidth, high]
        axes.plot(xs, [min(peak, bandwidth * x) / 1e12 for x in xs], color="0.3", lw=0.9)
        for number, (x, y, _) in enumerate(sorted(points), start=1):
            axes.plot([x], [y], "o", color="#D55E00", fillstyle="none", ms=4)
            above = 4 if number % 2 else -9
            axes.annotate(
                str(number), (x, y), (0, above), textcoords="offset points", ha="center", fontsize=6
            )
        names = [
            f"{number} {name.replace('_', ' ')}"
            for number, (_, _, name) in enumerate(sorted(points), start=1)
        ]
        axes.annotate(
            "\n".join(names),
            (0.99, 0.02),
            xycoords="axes fraction",
            ha="right",
            va="bottom",
            fontsize=5.5,
            linespacing=1.25,
        )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter(thousands)
        axes.yaxis.set_major_formatter(thousands)
        axes.set_xlim(low, high)
        axes.set_xlabel("FLOP per byte of all tensors, traced")
        axes.set_ylabel("rate on an H200, predicted (TFLOP/s)")
    return figure


def _noted(rows: pd.DataFrame) -> pd.Series:
    has = ["device_bytes_per_s" in record["notes"] for record in rows["record"]]
    return pd.Series(has, index=rows.index, dtype=bool)
