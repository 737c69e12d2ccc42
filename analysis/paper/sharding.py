"""Figures of several devices: the longest sequence, bytes by scheme, scaling."""

from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import scheme_volumes
from analysis.drawing import paper_style
from analysis.methods import PREDICTED, TRACED
from analysis.nested import breakdown
from analysis.palette import (
    AF3_FUSED,
    AF3_REFERENCE,
    AF3_SHARDED,
    PUBLISHED_EAGER,
    PUBLISHED_MEGAFOLD,
    fills,
)
from analysis.paper.plots import (
    GIB,
    axes_of,
    labels_of,
    legend_of,
    plot_curves,
    stacked_bars,
    thousands,
)
from analysis.paper.published_curves import published_curve
from analysis.paper.selection import Curve, MissingRecordsError, training

_DEVICES = {"64 GB": 64e9, "80 GB": 80e9, "141 GB": 141e9}
_MARKERS = dict(zip(_DEVICES, "osD", strict=True))
_SHADES = dict(zip(_DEVICES, ("#56B4E9", "#009E73", "#D55E00"), strict=True))
# A traced length is used for a memory that its peak differs from by this factor at most.
_NEAR = 1.25
_TILE = 32
_STRONG_TOKENS = 3072
# Tokens² over ranks of weak scaling.
_WEAK = 768**2
_SHOWN_OPERATORS = 7
OTHER = "other"
DOCUMENT = Path(__file__).parents[2] / "docs" / "sharding.md"


def by_ranks(table: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """Return the fused training steps by the number of context ranks, sharded where several."""
    rows = {1: training(table, "triton")}
    sharded = training(table, "triton", shard_parameters=True, context_ranks=None)
    for ranks, group in sharded.groupby("context_ranks"):
        if int(ranks) > 1:
            rows[int(ranks)] = group
    return dict(sorted(rows.items()))


def longest(rows: pd.DataFrame, memory: float) -> float | None:
    """Return the longest length whose tensors fit in a memory; None if no traced one is near.

    The peak grows with the square of the length around the nearest traced one.
    """
    peaks = [(float(r["tokens"]), float(r["peak_tracked_bytes"])) for _, r in rows.iterrows()]
    near = [(abs(peak / memory - 1), n, peak) for n, peak in peaks if peak > 0]
    if not near:
        return None
    _, tokens, peak = min(near)
    if not memory / _NEAR <= peak <= memory * _NEAR:
        return None
    return tokens * sqrt(memory / peak) // _TILE * _TILE


def longest_tokens(table: pd.DataFrame) -> Any:
    """Draw the longest training step against the number of devices of 64 GB, beside MegaFold's."""
    memory = _DEVICES["64 GB"]
    ours = _longest_curve(table, memory)
    if len(ours.points) < 2:
        raise MissingRecordsError("no such records")
    reference = longest(training(table, "reference"), memory)
    flat = [(ranks, reference) for ranks, _ in ours.points] if reference else []
    curves = [
        ours,
        Curve(AF3_REFERENCE, PREDICTED, flat),
        published_curve(PUBLISHED_MEGAFOLD, "longest sequence trained, MI250", "MegaFold"),
        published_curve(PUBLISHED_EAGER, "longest sequence trained, MI250", "PyTorch"),
    ]
    with paper_style():
        figure, (axes,) = axes_of(1, labels_of(curves))
        plot_curves(axes, curves)
        first = ours.points[0][1]
        ranks = [size for size, _ in ours.points]
        axes.plot(ranks, [first * sqrt(p) for p in ranks], color="0.6", lw=0.7, ls=":")
        axes.annotate(
            "√P",
            (ranks[-1], first * sqrt(ranks[-1])),
            (5, 2),
            textcoords="offset points",
            fontsize=6.5,
            color="0.4",
        )
        _over_ranks(axes, [size for line in curves for size, _ in line.points])
        axes.set_ylabel("longest sequence, 64 GB (tokens)")
        legend_of(figure, [axes])
    return figure


def _longest_curve(table: pd.DataFrame, memory: float) -> Curve:
    lengths = {ranks: longest(rows, memory) for ranks, rows in by_ranks(table).items()}
    points = [(float(ranks), length) for ranks, length in lengths.items() if length]
    return Curve(AF3_SHARDED, PREDICTED, points)


def frontier(table: pd.DataFrame) -> Any:
    """Draw the longest training step against the number of devices, by their memory."""
    curves = {name: _longest_curve(table, memory) for name, memory in _DEVICES.items()}
    shown = {name: line.points for name, line in curves.items() if len(line.points) > 1}
    if not shown:
        raise MissingRecordsError("no such records")
    with paper_style():
        figure, (axes,) = axes_of(1, list(shown))
        for name, points in shown.items():
            axes.plot(
                *zip(*points, strict=True),
                color=_SHADES[name],
                marker=_MARKERS[name],
                fillstyle="none",
                linestyle=(0, (4, 1.6)),
                label=f"{name} (predicted)",
            )
        _over_ranks(axes, [ranks for points in shown.values() for ranks, _ in points])
        axes.set_ylabel("longest sequence (tokens)")
        legend_of(figure, [axes])
    return figure


def _over_ranks(axes: Any, ranks: Sequence[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted(set(ranks))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    low, high = axes.get_ylim()
    steps = [250 * 2**k for k in range(10) if low <= 250 * 2**k <= high * 1.2]
    axes.set_yticks(steps, [thousands(step) for step in steps])
    axes.minorticks_off()
    axes.set_xlabel("devices P")


def bytes_by_scheme(table: pd.DataFrame) -> Any:
    """Draw the bytes that a rank sends for a pair block against the number of ranks, by scheme."""
    if not DOCUMENT.exists():
        raise MissingRecordsError("no measured volumes")
    return scheme_volumes.draw(scheme_volumes.measured(DOCUMENT.read_text(encoding="utf-8")))


def _scaled(table: pd.DataFrame, *, weak: bool) -> dict[int, pd.Series]:
    """Return the record of each number of ranks, of strong or weak scaling."""
    rows = {}
    for ranks, group in by_ranks(table).items():
        tokens = round(sqrt(_WEAK * ranks)) if weak else _STRONG_TOKENS
        of_length = group[group["tokens"] == tokens]
        if len(of_length):
            rows[ranks] = of_length.iloc[-1]
    return rows


def scaling(table: pd.DataFrame) -> Any:
    """Draw predicted time and traced peak of a rank, for a constant length and a constant slab."""
    strong, weak = _scaled(table, weak=False), _scaled(table, weak=True)
    if len(strong) < 2 or len(weak) < 2:
        raise MissingRecordsError("no such records")
    names = {"strong": "N = 3,072", "weak": "N = 768 √P"}
    columns = (
        ("predicted_step_time_s", 1.0, "step, predicted (s)", PREDICTED),
        ("peak_tracked_bytes", GIB, "peak of a rank, traced (GiB)", TRACED),
    )
    with paper_style():
        figure, panels = axes_of(2, list(names.values()), height=2.2)
        for axes, (column, unit, label, method) in zip(panels, columns, strict=True):
            for rows, name, system in (
                (strong, names["strong"], AF3_SHARDED),
                (weak, names["weak"], AF3_FUSED),
            ):
                points = [(float(p), float(row[column]) / unit) for p, row in rows.items()]
                plot_curves(axes, [Curve(system, method, points)])
                axes.lines[-1].set_label(name)
            first = float(strong[min(strong)][column]) / unit
            counts = sorted(strong)
            axes.plot(
                counts,
                [first * counts[0] / p for p in counts],
                color="0.6",
                lw=0.7,
                ls=":",
                label="1/P",
            )
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(counts, [str(count) for count in counts])
            axes.yaxis.set_major_formatter(thousands)
            axes.set_xlabel("devices P (H200)")
            axes.set_ylabel(label)
        legend_of(figure, panels)
    return figure


def exchanged_bytes(table: pd.DataFrame) -> Any:
    """Draw the bytes that a rank exchanges in a step of 3,072 tokens, by operator."""
    rows = {ranks: row for ranks, row in _scaled(table, weak=False).items() if ranks > 1}
    if not rows:
        raise MissingRecordsError("no such records")
    exchanged = {ranks: _exchanged(row) for ranks, row in rows.items()}
    totals: dict[str, float] = {}
    for counts in exchanged.values():
        for name, nbytes in counts.items():
            totals[name] = totals.get(name, 0.0) + nbytes
    named = sorted(filter(None, totals), key=lambda name: -totals[name])
    largest = named[:_SHOWN_OPERATORS]
    names = [*largest, *([OTHER] if len(totals) > len(largest) else [])]
    filled = fills("module", [_spaced(name) for name in names])
    with paper_style():
        figure, (axes,) = axes_of(1, list(filled))
        heights = {
            _spaced(name): [
                (counts.get(name, 0.0) if name != OTHER else _rest(counts, largest)) / GIB
                for counts in exchanged.values()
            ]
            for name in names
        }
        stacked_bars(axes, range(len(rows)), heights, filled)
        axes.set_xticks(range(len(rows)), [str(ranks) for ranks in rows])
        axes.set_xlabel(f"devices P, {_STRONG_TOKENS:,} tokens")
        axes.set_ylabel("exchanged by a rank, traced (GiB)")
        legend_of(figure, [axes])
    return figure


def _exchanged(row: pd.Series) -> Mapping[str, float]:
    table = pd.DataFrame([row])
    of_row = breakdown(table, "collective_bytes")
    sent = zip(of_row["operator"], of_row["collective_bytes"], strict=True)
    return {str(name): float(nbytes) for name, nbytes in sent}


def _rest(counts: Mapping[str, float], largest: Sequence[str]) -> float:
    return sum(nbytes for name, nbytes in counts.items() if name not in largest)


def _spaced(name: str) -> str:
    return name.replace("_", " ")
