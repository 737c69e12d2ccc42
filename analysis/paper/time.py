"""Figures of time and energy: iterations, seconds and joules against the length, the pipeline."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.drawing import PAGE, paper_style
from analysis.nested import samples
from analysis.palette import (
    AF3_COMPILED,
    AF3_FUSED,
    AF3_REFERENCE,
    BLOOM,
    PUBLISHED_DS4SCI,
    PUBLISHED_EAGER,
    PUBLISHED_INDUCTOR,
    PUBLISHED_MEGAFOLD,
    fills,
)
from analysis.paper.paper_cases import H200, MI250, PIPELINE, TRAINING
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
from analysis.paper.selection import Curve, curve, language_model, require, select, training

# Kinds of operators that a compiler fuses into others at best.
POINTWISE = frozenset(
    "elementwise copy indexing reduction random creation activation normalization softmax "
    "other host".split()
)
_PATHS: Mapping[str, str] = {
    "conventional": "parsed in each step",
    "conventional-cached": "cached objects",
    "prepared": "prepared",
    "prepared-cold": "prepared, not in memory",
}
_ITERATIONS = 50
_PHASES: Mapping[str, tuple[str, ...]] = {
    "data": ("data",),
    "forward": ("permutation", "forward", "trunk", "rollout", "diffusion"),
    "backward": ("backward",),
    "optimizer": ("all_reduce", "optimizer"),
}


def iterations(table: pd.DataFrame) -> Any:
    """Draw loading, forward, backward and optimizer over the iterations of a measured run."""
    rows = select(table, sweep="iterations", workload=TRAINING, status="ok")
    require(rows)
    panels_of = {
        path: rows[rows["path"] == path] for path in _PATHS if (rows["path"] == path).any()
    }
    filled = fills("phase", list(_PHASES))
    with paper_style():
        figure, panels = axes_of(len(panels_of), list(_PHASES), height=1.9, width=PAGE)
        for axes, (path, of_path) in zip(panels, panels_of.items(), strict=True):
            steps = samples(of_path, "phase_time_s").pivot_table(
                index="step", columns="part", values="phase_time_s", aggfunc="last", observed=True
            )
            bottom = pd.Series(0.0, index=steps.index)
            for name, phases in _PHASES.items():
                seconds = steps[[phase for phase in phases if phase in steps]].sum(axis=1)
                axes.fill_between(
                    steps.index,
                    bottom,
                    bottom + seconds,
                    step="mid",
                    label=name,
                    facecolor=filled[name].colour,
                    hatch=filled[name].hatch,
                    edgecolor="0.15",
                    linewidth=0.2,
                )
                bottom = bottom + seconds
            axes.set_title(_PATHS[path], loc="left")
            axes.set_xlim(1, min(_ITERATIONS, len(steps)))
            axes.set_xlabel("iteration")
        for axes in panels:
            axes.set_ylim(bottom=0)
        share_scale(panels)
        panels[0].set_ylabel("time, measured (s)")
        legend_of(figure, panels)
    return figure


def step_time(table: pd.DataFrame) -> Any:
    """Draw seconds per iteration against the length, on an H200 and an MI250, on one scale."""
    devices = {
        "H200": _ours(table, H200) + _published("time of a training iteration, H200"),
        "MI250": _ours(table, MI250) + _published("time of a training iteration, MI250"),
    }
    for curves in devices.values():
        require(*curves[:3])
    longest = max(labels_of(devices["H200"]), key=len)
    labels = [longest] * len(labels_of(devices["H200"]))
    with paper_style():
        figure, panels = axes_of(2, labels, height=2.3)
        for axes, (device, curves) in zip(panels, devices.items(), strict=True):
            plot_curves(axes, curves)
            sizes = [size for line in curves for size, _ in line.points if size <= 768]
            logarithmic(axes, sizes, "tokens N", "seconds per iteration")
            axes.set_xlim(110, 900)
            axes.set_title(device, loc="left")
        share_scale(panels)
        legend_of(figure, panels)
    return figure


def _ours(table: pd.DataFrame, device: str) -> list[Curve]:
    reference = training(table, "reference", device)
    fused = training(table, "triton", device)
    return [
        _short(curve(AF3_REFERENCE, reference, "predicted_step_time_s")),
        _short(curve(AF3_COMPILED, reference, compiled_bound)),
        _short(curve(AF3_FUSED, fused, "predicted_step_time_s")),
    ]


def _short(line: Curve) -> Curve:
    return line._replace(points=[(size, value) for size, value in line.points if size <= 768])


def _published(figure: str) -> list[Curve]:
    systems = {
        PUBLISHED_EAGER: "PyTorch",
        PUBLISHED_INDUCTOR: "Inductor",
        PUBLISHED_DS4SCI: "DS4Sci",
        PUBLISHED_MEGAFOLD: "MegaFold",
    }
    return [published_curve(name, figure, system) for name, system in systems.items()]


def compiled_bound(row: pd.Series) -> float:
    """Return the predicted time of a reference step without pointwise work and host time.

    No compiler that keeps the products of matrices can be faster: a lower bound.
    """
    kinds: dict[str, float] = row["record"]["notes"]["predicted_s_by_kind"]
    return sum(seconds for kind, seconds in kinds.items() if kind not in POINTWISE)


def energy_per_residue(table: pd.DataFrame) -> Any:
    """Draw the predicted energy of a step over its tokens, against the length."""
    systems = {
        AF3_REFERENCE: training(table, "reference"),
        AF3_FUSED: training(table, "triton"),
        BLOOM: language_model(table),
    }
    require(*systems.values())
    curves = [curve(name, rows, "predicted_energy_per_step_j") for name, rows in systems.items()]
    per_token = [
        line._replace(points=[(size, joules / size) for size, joules in line.points])
        for line in curves
    ]
    with paper_style():
        figure, (axes,) = axes_of(1, labels_of(per_token))
        plot_curves(axes, per_token)
        sizes = [size for line in per_token for size, _ in line.points]
        logarithmic(axes, sizes, "tokens N", "energy per token, H200 (J)")
        legend_of(figure, [axes])
    return figure


def batch_time(table: pd.DataFrame) -> Any:
    """Draw the time of a batch by path of the pipeline: a point for each structure."""
    rows = select(
        table,
        sweep=PIPELINE,
        workload=PIPELINE,
        preset="full",
        tokens=384,
        atoms=8192,
        crop="contiguous",
        workers=0,
        device_ms=0,
        status="ok",
    )
    require(rows)
    paths = [path for path in _PATHS if (rows["path"] == path).any()]
    entries = sorted(rows["entry"].dropna().unique())
    with paper_style():
        figure, (axes,) = axes_of(1, entries, height=1.9)
        for y, path in enumerate(paths):
            of_path = rows[rows["path"] == path].set_index("entry")
            for k, entry in enumerate(entries):
                if entry not in of_path.index:
                    continue
                row = of_path.loc[entry]
                at = y + 0.5 * (k / max(1, len(entries) - 1) - 0.5)
                value = row["step_time_s"] * 1e3
                low, high = row["step_time_s_low"] * 1e3, row["step_time_s_high"] * 1e3
                axes.errorbar(
                    [value],
                    [at],
                    xerr=[[value - low], [high - value]],
                    fmt="osD^"[k % 4],
                    color="#0072B2",
                    ms=3,
                    capsize=1.5,
                    lw=0.7,
                    label=entry if y == 0 else None,
                )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(thousands)
        axes.set_yticks(range(len(paths)), [_PATHS[path] for path in paths])
        axes.set_ylim(len(paths) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("time of a batch, measured (ms)")
        legend_of(figure, [axes])
    return figure
