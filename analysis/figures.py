"""Figures: a quantity against tokens, with fitted exponents.

Series differ by colour, marker and line style, so that they are told apart in grey.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from analysis.scaling import PowerLaw, fit_power_law
from analysis.table import Row

STYLE = Path(__file__).with_name("paper.mplstyle")
_MARKERS = "osD^vP*"
_LINES = ("-", "--", "-.", ":")
_FORMATS = ("pdf", "png", "svg")


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a figure shows.

    Attributes:
        name: File name.
        columns: Figures of a row, the first that a series has being drawn.
        label: Axis label.
        scale: Divides the values.
        title: One line.
    """

    name: str
    columns: tuple[str, ...]
    label: str
    scale: float
    title: str


PEAK_MEMORY = Quantity(
    "peak_memory",
    ("peak_allocated_bytes", "peak_resident_bytes"),
    "peak memory of a step (GiB)",
    2**30,
    "Peak memory against tokens",
)
STEP_TIME = Quantity(
    "step_time", ("step_time_s",), "time of a step (s)", 1, "Step time against tokens"
)
QUANTITIES = (PEAK_MEMORY, STEP_TIME)


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a figure.

    Attributes:
        label: Its name in the legend.
        tokens: Sizes, ascending.
        values: Median over the records of each size, in the records' unit.
        points: Every record's (tokens, value).
        failed: Sizes at which no case ended well, with the status of one.
        law: The fitted power law.
    """

    label: str
    tokens: tuple[float, ...]
    values: tuple[float, ...]
    points: tuple[tuple[float, float], ...]
    failed: tuple[tuple[float, str], ...]
    law: PowerLaw | None


def series_of(rows: Sequence[Row], quantity: Quantity) -> list[Series]:
    """The lines of a figure, by series, variant and device."""
    groups: defaultdict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.series, row.variant, row.device].append(row)
    several = len({(variant, device) for _, variant, device in groups}) > 1
    found = []
    for (name, variant, device), members in groups.items():
        label = f"{name} ({variant}; {device})" if several else name
        line = _series(label, members, quantity)
        if line.tokens:
            found.append(line)
    return found


def _series(label: str, rows: Sequence[Row], quantity: Quantity) -> Series:
    chosen = next(
        (c for c in quantity.columns if any(row.figures[c] is not None for row in rows)),
        quantity.columns[-1],
    )
    points = [
        (row.tokens, value)
        for row in rows
        if row.status == "ok" and (value := row.figures[chosen]) is not None
    ]
    sizes = sorted({tokens for tokens, _ in points})
    values = [median(v for n, v in points if n == size) for size in sizes]
    failed = {row.tokens: row.status for row in rows if row.status != "ok"}
    return Series(
        label,
        tuple(sizes),
        tuple(values),
        tuple(points),
        tuple((n, status) for n, status in sorted(failed.items()) if n not in sizes),
        fit_power_law(sizes, values),
    )


def draw(lines: Sequence[Series], quantity: Quantity) -> Any:
    """A matplotlib figure, logarithmic both ways."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    with plt.style.context(STYLE):
        figure, axes = plt.subplots()
        axes.set_xscale("log")
        axes.set_yscale("log")
        for number, line in enumerate(lines):
            colour = f"C{number % 7}"
            scaled = [value / quantity.scale for value in line.values]
            label = line.label if line.law is None else f"{line.label}: {line.law}"
            style = _LINES[number % len(_LINES)]
            marker = _MARKERS[number % len(_MARKERS)]
            axes.plot(line.tokens, scaled, style, color=colour, marker=marker, label=label)
            xs, ys = zip(*line.points, strict=True)
            axes.plot(xs, [y / quantity.scale for y in ys], ".", color=colour, alpha=0.4, ms=2)
            for tokens, status in line.failed:
                # Off the end of what fits: a terminal cross above the last good point.
                axes.plot([tokens], [max(scaled)], "x", color=colour, ms=6, mew=1.5)
                axes.annotate(status, (tokens, max(scaled)), fontsize=6, color=colour)
        sizes = sorted({tokens for line in lines for tokens in line.tokens})
        axes.set_xticks(sizes)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        if len(sizes) > 6:
            axes.tick_params(axis="x", labelrotation=45)
        axes.set_xlabel("tokens N")
        axes.set_ylabel(quantity.label)
        axes.legend(loc="upper left")
    return figure


def save(figure: Any, folder: Path, name: str, source: str) -> list[Path]:
    """Writes PDF, PNG and SVG, byte-stable, `source` among their metadata.

    Args:
        figure: From `draw`.
        folder: Where to.
        name: File name without suffix.
        source: What the figure was made of: hash of the records and their commit.
    """
    from matplotlib import pyplot as plt

    paths = []
    with plt.style.context(STYLE):
        for suffix in _FORMATS:
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
