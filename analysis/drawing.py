"""Style and output of figures: series distinguishable in greyscale, byte-stable files."""

import hashlib
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.palette import LineStyle

STYLE = Path(__file__).with_name("paper.mplstyle")
FORMATS = ("pdf", "png", "svg")

# Inches: the width of one column of a paper, and of the page.
COLUMN = 3.5
PAGE = 7.16
# Inches: height of a legend row, width of a legend key with its margins, and of a letter.
LEGEND_ROW = 0.15
_LEGEND_KEY = 0.42
_LETTER = 0.048
# Number of series that differ in colour, marker and line style at once.
MAX_LINES = 7
_COLOURS = ("0072B2", "D55E00", "009E73", "CC79A7", "E69F00", "56B4E9", "000000")
_MARKERS = "osD^vP*"
_DASHES = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1.2)))


def line_style(number: int) -> LineStyle:
    """Return the line style of a figure's series by its index."""
    return LineStyle(
        f"#{_COLOURS[number % len(_COLOURS)]}",
        _MARKERS[number % len(_MARKERS)],
        _DASHES[number % len(_DASHES)],
    )


def panels_per_row(panels: int) -> int:
    """Return the number of panels side by side: at most three, and two for four panels."""
    return min(panels, 2 if panels == 4 else 3)


def subplots(
    panels: int, height: float, width: float, legend_rows: int = 0
) -> tuple[Any, list[Any]]:
    """Return a figure and its axes, in rows of up to three.

    Args:
        panels: Number of axes.
        height: Height of a row, in inches.
        width: Width of the figure, in inches.
        legend_rows: Rows of a legend above all axes.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    columns = panels_per_row(panels)
    rows = -(-panels // columns)
    size = (width, height * rows + LEGEND_ROW * legend_rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False)
    axes = list(grid.flat)
    for spare in axes[panels:]:
        spare.remove()
    return figure, axes[:panels]


def paper_style() -> Any:
    """Return the style context in which figures are plotted and written."""
    from matplotlib import pyplot as plt

    return plt.style.context(STYLE)


def plot_text(text: str, width: int = 0) -> str:
    """Return text for a figure, with ``$`` escaped, wrapped at `width` characters if not 0."""
    lines = textwrap.wrap(text, width, break_long_words=False) if width else [text]
    return "\n".join(lines).replace("$", r"\$")


def legend_columns(labels: Sequence[str], width: float) -> int:
    """Return the number of legend columns that fit into `width` inches."""
    longest = max(map(len, labels), default=0)
    return max(1, min(5, len(labels), int(width / (_LEGEND_KEY + _LETTER * longest))))


def legend_rows(labels: Sequence[str], width: float) -> int:
    """Return the number of rows of a legend in `width` inches."""
    return -(-len(labels) // legend_columns(labels, width))


def legend_above(figure: Any, handles: Sequence[Any], columns: int = 0) -> None:
    """Add one legend for all axes of a figure, above them.

    Args:
        figure: A matplotlib figure.
        handles: Labelled artists.
        columns: Number of columns; 0 is as many as fit.
    """
    labels = [handle.get_label() for handle in handles]
    columns = columns or legend_columns(labels, figure.get_figwidth())
    figure.legend(handles=handles, loc="outside upper left", ncols=columns)


def save(
    figure: Any,
    folder: Path,
    name: str,
    source: str,
    formats: Sequence[str] = FORMATS,
    *,
    keywords: str = "",
) -> list[Path]:
    """Write PDF, PNG and SVG files, byte-stable, with `source` in their metadata.

    Args:
        figure: A matplotlib figure.
        folder: Output folder.
        name: File name without suffix.
        source: Hash of the records and their commit.
        formats: Suffixes of the files.
        keywords: Keywords of the PDF file.

    Returns:
        The paths of the files.
    """
    from matplotlib import pyplot as plt

    paths = []
    with paper_style():
        # Laid out once for all formats: the layout takes as long as writing a file.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for suffix in formats:
            path = folder / f"{name}.{suffix}"
            metadata: dict[str, Any] = {"png": {"Source": source}}.get(suffix, {})
            if suffix == "pdf":
                metadata = {"Subject": source, "CreationDate": None}
                metadata |= {"Keywords": keywords} if keywords else {}
            elif suffix == "svg":
                metadata = {"Source": source, "Date": None}
            figure.savefig(path, metadata=metadata)
            paths.append(path)
    plt.close(figure)
    return paths


def save_record(
    figure: Any, folder: Path, name: str, record: dict[str, Any], description: str
) -> Path:
    """Write the figure of one record, named in its metadata, and return the SVG file."""
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:12]
    commit = (record["git"]["sha"] or "unknown")[:8]
    save(figure, folder, name, f"{description} {digest} of commit {commit}")
    return folder / f"{name}.svg"
