"""Figures of the findings: traced values filled, predicted ones hollow, published ones grey."""

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.drawing import COLUMN, fill, line_style, paper_style, subplots

Values = Mapping[int, float]
_HEIGHT = 2.25
_GREY = "0.55"
_SMALL = 6.5
# Order of the parts of memory, those of the model first.
_STATES = (
    *("parameters", "optimizer", "gradients", "inputs", "activations", "recomputed"),
    *("temporaries", "workspace"),
)


def draw_peaks(
    ours: Values,
    llm: Values,
    published: Mapping[str, Values],
    devices: Sequence[float],
) -> Any:
    """Return the figure of peak memory against tokens, with the memory of devices as lines.

    Args:
        ours: Traced peak of AlphaFold 3 by tokens. Unit: B.
        llm: Traced peak of the language model by tokens. Unit: B.
        published: Published peaks by system and tokens. Unit: B.
        devices: Memory of devices. Unit: B.
    """
    with paper_style():
        figure, (axis,) = subplots(1, 3.3, COLUMN)
        first, last = min(ours), max(ours)
        for memory in devices:
            axis.axhline(memory / 1e9, color="0.3", linewidth=0.7, linestyle=(0, (1, 1.5)))
            axis.annotate(
                f"{memory / 1e9:.0f} GB device",
                (first, memory / 1e9),
                xytext=(0, 2),
                textcoords="offset points",
                fontsize=_SMALL,
                color="0.3",
            )
        for system, marker, side in (("PyTorch", "s", -1), ("MegaFold", "D", 1)):
            points = published.get(system, {})
            if points:
                _line(axis, points, _GREY, marker, dashes=":")
                end = max(points) if side > 0 else min(points)
                _name(axis, end, points[end] / 1e9, f"{system}\npublished", _GREY, side)
        lines = ((ours, "AlphaFold 3\ntraced"), (llm, "BLOOM-560M\ntraced"))
        for number, (values, label) in enumerate(lines):
            style = line_style(number)
            _line(axis, values, style.colour, style.marker)
            end = max(values)
            _name(axis, end, values[end] / 1e9, label, style.colour)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        ticks = [n for n in (128, 256, 384, 512, 768, 1536, 3072, 6144) if first <= n <= last]
        axis.set_xticks(ticks, [f"{n:,}" for n in ticks])
        axis.set_xlim(right=last * 2.1)
        heights = [n for n in (5, 10, 20, 50, 100, 200, 500) if n * 1e9 < 1.5 * max(ours.values())]
        axis.set_yticks(heights, [f"{n}" for n in heights])
        axis.minorticks_off()
        axis.set_xlabel("tokens")
        axis.set_ylabel("peak memory of a training step (GB)")
    return figure


def _line(axis: Any, values: Values, colour: str, marker: str, *, dashes: str = "-") -> None:
    sizes = sorted(values)
    axis.plot(
        sizes,
        [values[n] / 1e9 for n in sizes],
        marker=marker,
        linestyle=dashes,
        color=colour,
    )


def _name(axis: Any, x: float, y: float, text: str, colour: str, side: int = 1) -> None:
    """Write a line's name to the right of a point, or to the left if `side` is negative."""
    axis.annotate(
        text,
        (x, y),
        xytext=(5 * side, 0),
        textcoords="offset points",
        va="center",
        ha="left" if side > 0 else "right",
        fontsize=_SMALL,
        color=colour,
    )


def draw_calls(calls: Mapping[str, Mapping[str, float]]) -> Any:
    """Return the figure of calls by kind of operator, one marker for each system.

    Args:
        calls: Calls of a step by system and kind.
    """
    most = next(iter(calls.values()))
    kinds = sorted(
        {kind for parts in calls.values() for kind in parts}, key=lambda k: most.get(k, 0)
    )
    with paper_style():
        figure, (axis,) = subplots(1, _HEIGHT, COLUMN, legend_rows=1)
        for position, kind in enumerate(kinds):
            present = [parts[kind] for parts in calls.values() if kind in parts]
            axis.plot(
                [min(present), max(present)], [position] * 2, color="0.8", marker="", zorder=1
            )
        for number, (label, parts) in enumerate(calls.items()):
            style = line_style(number)
            axis.plot(
                [parts[kind] for kind in kinds if kind in parts],
                [position for position, kind in enumerate(kinds) if kind in parts],
                style.marker,
                color=style.colour,
                label=label,
            )
        axis.set_xscale("log")
        axis.set_yticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds])
        axis.set_xlabel("calls in a training step, traced")
        figure.legend(loc="outside upper left", ncols=len(calls))
    return figure


def draw_states(stacks: Mapping[int, Mapping[str, float]], marked: int) -> Any:
    """Return the figure of the peak's parts against tokens.

    Args:
        stacks: Bytes by tokens and state. Unit: B.
        marked: Size whose total is written.
    """
    sizes = sorted(stacks)
    states = [
        s
        for s in _STATES
        if any(stacks[n].get(s, 0) > 0.002 * sum(stacks[n].values()) for n in sizes)
    ]
    with paper_style():
        figure, (axis,) = subplots(1, _HEIGHT, COLUMN, legend_rows=2)
        below = [0.0] * len(sizes)
        for state in states:
            style = fill(_STATES.index(state))
            heights = [stacks[n].get(state, 0.0) / 1e9 for n in sizes]
            axis.bar(
                range(len(sizes)),
                heights,
                bottom=below,
                width=0.7,
                label=state,
                color=style.colour,
                hatch=style.hatch,
                edgecolor="black",
                linewidth=0.4,
            )
            below = [a + b for a, b in zip(below, heights, strict=True)]
        if marked in stacks:
            place = sizes.index(marked)
            axis.annotate(
                f"{below[place]:.1f} GB",
                (place, below[place]),
                ha="center",
                va="bottom",
                fontsize=_SMALL,
            )
        axis.set_xticks(range(len(sizes)), [f"{n}" for n in sizes])
        axis.margins(y=0.12)
        axis.set_xlabel("tokens")
        axis.set_ylabel("alive at the peak, traced (GB)")
        figure.legend(loc="outside upper left", ncols=4)
    return figure


def draw_longest(lengths: Values, published: Mapping[str, Values]) -> Any:
    """Return the figure of the longest example against the number of devices.

    Args:
        lengths: Tokens by number of devices.
        published: Published tokens by system and number of devices.
    """
    counts = sorted(lengths)
    with paper_style():
        figure, (axis,) = subplots(1, _HEIGHT, COLUMN)
        axis.plot(
            counts,
            [lengths[counts[0]] * (p / counts[0]) ** 0.5 for p in counts],
            color="0.3",
            marker="",
            linewidth=0.7,
            linestyle=(0, (1, 1.5)),
        )
        style = line_style(0)
        axis.plot(counts, [lengths[p] for p in counts], marker=style.marker, color=style.colour)
        _name(axis, counts[-1], lengths[counts[-1]], "ours, 141 GB\ntraced", style.colour)
        for system, marker in (("PyTorch", "s"), ("MegaFold", "D")):
            points = published.get(system, {})
            if points:
                places = sorted(points)
                axis.plot(
                    places, [points[p] for p in places], marker=marker, color=_GREY, linestyle=":"
                )
                _name(axis, places[-1], points[places[-1]], f"{system}, 64 GB\npublished", _GREY)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(counts, [f"{p}" for p in counts])
        axis.set_xlim(right=counts[-1] * 3.6)
        ticks = [n for n in (500, 1000, 2000, 4000, 8000, 16000) if n < 1.3 * max(lengths.values())]
        axis.set_yticks(ticks, [f"{n:,}" for n in ticks])
        axis.minorticks_off()
        axis.set_xlabel("devices that divide an example (dotted: square root)")
        axis.set_ylabel("longest example (tokens)")
    return figure


def draw_volumes(traced: Values, predicted: Mapping[str, Values]) -> Any:
    """Return the figure of the bytes that a rank sends, by scheme.

    Args:
        traced: Bytes for each pair of tokens by number of ranks, of this system.
        predicted: The same of other schemes, from closed forms.
    """
    with paper_style():
        figure, (axis,) = subplots(1, _HEIGHT, COLUMN)
        lines = [("ours\ntraced", traced, False)]
        lines += [(f"{name}\npredicted", values, True) for name, values in predicted.items()]
        for number, (label, values, hollow) in enumerate(lines):
            style = line_style(number)
            counts = sorted(values)
            axis.plot(
                counts,
                [values[p] / 1e3 for p in counts],
                marker=style.marker,
                color=style.colour,
                linestyle="--" if hollow else "-",
                markerfacecolor="white" if hollow else style.colour,
            )
            _name(axis, counts[-1], values[counts[-1]] / 1e3, label, style.colour)
        axis.set_xscale("log", base=2)
        counts = sorted(traced)
        axis.set_xticks(counts, [f"{p}" for p in counts])
        axis.set_xlim(right=counts[-1] * 2.6)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("ranks that divide an example")
        axis.set_ylabel("triangle multiplications:\nsent by a rank (kB per pair of tokens)")
    return figure
