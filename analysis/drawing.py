"""How figures look and are written: one style, series told apart in grey, stable bytes."""

import hashlib
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STYLE = Path(__file__).with_name("paper.mplstyle")
FORMATS = ("pdf", "png", "svg")

# Inches: one column of a paper, and both.
COLUMN = 3.5
PAGE = 7.16
# Of a legend: height of a row, width of a key with its margins, and of a letter.
LEGEND_ROW = 0.15
_LEGEND_KEY = 0.42
_LETTER = 0.054
# So many series differ in colour, marker and line at once.
MOST_LINES = 7
_COLOURS = ("0072B2", "D55E00", "009E73", "CC79A7", "E69F00", "56B4E9", "000000")
_MARKERS = "osD^vP*"
_DASHES = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1.2)))
# Fills differ in lightness and in hatch, neighbours most.
_FILLS = (
    ("#D5E8F5", ""),
    ("#0072B2", "////"),
    ("#F7DFA8", "...."),
    ("#D55E00", "\\\\\\\\"),
    ("#A6DCC8", "||||"),
    ("#CC79A7", "xxxx"),
    ("#56B4E9", "----"),
    ("#555555", ""),
    ("#E69F00", "++++"),
    ("#FFFFFF", "oooo"),
    ("#009E73", "...."),
    ("#F0E442", "\\\\\\\\"),
)


@dataclass(frozen=True, slots=True)
class Look:
    """How a series is drawn: colour, marker and line style."""

    colour: str
    marker: str
    dashes: Any


@dataclass(frozen=True, slots=True)
class Fill:
    """How a part of a stack is drawn: face colour and hatch."""

    colour: str
    hatch: str


def look(number: int) -> Look:
    """The look of a figure's series of that number."""
    return Look(
        f"#{_COLOURS[number % len(_COLOURS)]}",
        _MARKERS[number % len(_MARKERS)],
        _DASHES[number % len(_DASHES)],
    )


def fill(number: int) -> Fill:
    """The fill of a stack's part of that number."""
    return Fill(*_FILLS[number % len(_FILLS)])


def in_a_row(panels: int) -> int:
    """How many of a figure's panels stand side by side: three, or two where that leaves no gap."""
    return min(panels, 2 if panels == 4 else 3)


def subplots(
    panels: int, height: float, width: float, legend_rows: int = 0
) -> tuple[Any, list[Any]]:
    """A figure of so many axes, side by side and in rows; a last row may be short.

    Args:
        panels: How many axes.
        height: Of a row, in inches.
        width: Of the figure, in inches.
        legend_rows: Of a legend above all of them.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    columns = in_a_row(panels)
    deep = -(-panels // columns)
    size = (width, height * deep + LEGEND_ROW * legend_rows)
    figure, grid = plt.subplots(deep, columns, figsize=size, squeeze=False)
    axes = list(grid.flat)
    for spare in axes[panels:]:
        spare.remove()
    return figure, axes[:panels]


def styled() -> Any:
    """The context in which everything is drawn and written."""
    from matplotlib import pyplot as plt

    return plt.style.context(STYLE)


def plain(text: str, width: int = 0) -> str:
    """Text of records as a figure may show it: no mathematics in it, and wrapped at `width`."""
    lines = textwrap.wrap(text, width, break_long_words=False) if width else [text]
    return "\n".join(lines).replace("$", r"\$")


def legend_columns(labels: Sequence[str], width: float) -> int:
    """How many columns of a legend with these labels fit into so many inches."""
    longest = max(map(len, labels), default=0)
    return max(1, min(5, len(labels), int(width / (_LEGEND_KEY + _LETTER * longest))))


def legend_rows(labels: Sequence[str], width: float) -> int:
    """How many rows it has then."""
    return -(-len(labels) // legend_columns(labels, width))


def legend_above(figure: Any, handles: Sequence[Any], columns: int = 0) -> None:
    """One legend for all axes of a figure, above them, where no data is.

    Args:
        figure: What they are of.
        handles: What it explains.
        columns: How many it has; 0 is as many as have room.
    """
    labels = [handle.get_label() for handle in handles]
    columns = columns or legend_columns(labels, figure.get_figwidth())
    figure.legend(handles=handles, loc="outside upper left", ncols=columns)


def save(figure: Any, folder: Path, name: str, source: str) -> list[Path]:
    """Writes PDF, PNG and SVG, byte-stable, `source` among their metadata.

    Args:
        figure: A matplotlib figure.
        folder: Where to.
        name: File name without suffix.
        source: What the figure was made of: hash of the records and their commit.
    """
    from matplotlib import pyplot as plt

    paths = []
    with styled():
        # Laid out once for all formats: that takes as long as writing one.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for suffix in FORMATS:
            path = folder / f"{name}.{suffix}"
            metadata: dict[str, Any] = {"png": {"Source": source}}.get(suffix, {})
            if suffix == "pdf":
                metadata = {"Subject": source, "CreationDate": None}
            elif suffix == "svg":
                metadata = {"Source": source, "Date": None}
            figure.savefig(path, metadata=metadata)
            paths.append(path)
    plt.close(figure)
    return paths


def save_record(figure: Any, folder: Path, name: str, record: dict[str, Any], what: str) -> Path:
    """Writes the figure of one record, which its metadata name; returns the SVG file."""
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:12]
    commit = (record["git"]["sha"] or "unknown")[:8]
    save(figure, folder, name, f"{what} {digest} of commit {commit}")
    return folder / f"{name}.svg"
