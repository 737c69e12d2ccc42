"""Figure of the bytes that a rank sends for a pair block, against the number of ranks, by scheme.

Lines are the formulas of ``docs/sharding.md``, points the measured volumes of its table. As a
script, write the figure: ``python -m analysis.scheme_volumes docs/sharding.md OUT``.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from analysis.drawing import (
    PAGE,
    legend_above,
    legend_rows,
    line_style,
    paper_style,
    save,
    subplots,
)

MULTIPLICATIONS, BLOCK = "2 triangle multiplications", "pair block"
OURS, CANNON, DAP, MEGAFOLD = "ours", "Fold-CP (Cannon)", "DAP", "MegaFold as released"
# Heads per channel in the full model.
_HEADS = 4 / 128
_RANKS = range(2, 65)
_SQUARES = [p * p for p in range(2, 9)]


class Volume(NamedTuple):
    """Mean over ranks of the bytes that a rank sends, in units of its pair slab, N² c / P elements.

    Attributes:
        forward: In the forward pass.
        backward: In the backward pass, without recomputation.
    """

    forward: float
    backward: float


def multiplications(scheme: str, ranks: int) -> Volume:
    """Return the volume of both triangle multiplications."""
    other, swap = ranks - 1, (ranks - 1) / ranks
    if scheme == OURS:
        return Volume(6 * swap, 6 * swap)
    if scheme == CANNON:
        hops, moved = math.isqrt(ranks) - 1, 1 - 1 / math.isqrt(ranks)
        return Volume(6 * moved + 4 * hops, 10 * moved + 8 * hops)
    gathered = 2 * other + 2 * swap
    return Volume(gathered, 2 * swap if scheme == MEGAFOLD else gathered)


def block(scheme: str, ranks: int) -> Volume:
    """Return the volume of both triangle multiplications and both triangle attentions.

    Raises:
        ValueError: Fold-CP's attention is not implemented here.
    """
    if scheme == CANNON:
        raise ValueError("the attention of Fold-CP is not implemented")
    other, swap = ranks - 1, (ranks - 1) / ranks
    attended = 2 * swap + 2 * _HEADS * other
    backward = 2 * swap if scheme == MEGAFOLD else attended
    multiplied = multiplications(scheme, ranks)
    return Volume(multiplied.forward + attended, multiplied.backward + backward)


def measured(page: str) -> dict[tuple[str, str], dict[int, Volume]]:
    """Return the measured volumes of the table of ``docs/sharding.md``.

    Returns:
        By (operators, scheme) and number of ranks.
    """
    lines = page.splitlines()
    head = next(k for k, line in enumerate(lines) if line.startswith("| operators | scheme | P="))
    counts = [int(cell.split()[0].removeprefix("P=")) for cell in _cells(lines[head])[2::2]]
    found = {}
    for line in lines[head + 2 :]:
        if not line.startswith("|"):
            break
        operators, scheme, *values = _cells(line)
        pairs = zip(counts, values[::2], values[1::2], strict=True)
        found[operators, scheme] = {
            ranks: Volume(float(forward.split()[0]), float(backward.split()[0]))
            for ranks, forward, backward in pairs
            if forward != "–"
        }
    return found


def draw(found: Mapping[tuple[str, str], Mapping[int, Volume]]) -> Any:
    """Return the figure: forward and backward together, in units of the whole pair representation.

    Args:
        found: Measured volumes.
    """
    schemes = [OURS, CANNON, DAP, MEGAFOLD]
    panels: list[tuple[str, Callable[[str, int], Volume], Sequence[str]]] = [
        (MULTIPLICATIONS, multiplications, schemes),
        (BLOCK, block, [OURS, DAP, MEGAFOLD]),
    ]
    with paper_style():
        rows = legend_rows(schemes, PAGE)
        figure, axes = subplots(2, height=2.4, width=PAGE, legend_rows=rows)
        for panel, (operators, volume, shown) in zip(axes, panels, strict=True):
            for scheme in shown:
                style = line_style(schemes.index(scheme))
                counts = _SQUARES if scheme == CANNON else list(_RANKS)
                panel.plot(
                    counts,
                    [sum(volume(scheme, ranks)) / ranks for ranks in counts],
                    linestyle=style.dashes,
                    color=style.colour,
                    label=scheme,
                    marker="",
                )
                points = found[operators, scheme]
                panel.plot(
                    list(points),
                    [sum(sent) / ranks for ranks, sent in points.items()],
                    style.marker,
                    color=style.colour,
                )
            panel.set_xscale("log", base=2)
            panel.set_xticks([2, 4, 8, 16, 32, 64], ["2", "4", "8", "16", "32", "64"])
            panel.set_title(operators)
            panel.set_xlabel("number of ranks, P")
            panel.set_ylabel("sent by a rank / N² c")
        top = max(panel.get_ylim()[1] for panel in axes)
        for panel in axes:
            panel.set_ylim(0, top)
        legend_above(figure, axes[0].get_legend_handles_labels()[0])
    return figure


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def main(page: Path, out: Path) -> None:
    """Write the figure of a page's table, as PDF, PNG and SVG files beside each other."""
    figure = draw(measured(page.read_text(encoding="utf-8")))
    save(figure, out.parent, out.stem, f"table of {page.name}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
