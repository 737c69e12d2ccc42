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
    "peak memory of a step (MiB)",
    2**20,
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
        if row.status == "ok" and row.tokens > 0 and (value := row.figures[chosen]) is not None
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
        fit_power_law(points),
    )


def draw(lines: Sequence[Series], quantity: Quantity) -> Any:
    """A matplotlib figure, logarithmic both ways."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    with plt.style.context(STYLE):
        figure, axes = plt.subplots()
        axes.set_xscale("log")
        axes.set_yscale("log")
        for number, line in enumerate(lines):
            _draw_line(axes, line, number, quantity.scale)
        _label_axes(axes, sorted({tokens for line in lines for tokens in line.tokens}))
        axes.set_xlabel("tokens N")
        axes.set_ylabel(quantity.label)
        # Above the axes: wherever a curve goes, it does not run through the legend.
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    return figure


def _draw_line(axes: Any, line: Series, number: int, scale: float) -> None:
    colour = f"C{number % 7}"
    style, marker = _LINES[number % len(_LINES)], _MARKERS[number % len(_MARKERS)]
    scaled = [value / scale for value in line.values]
    axes.plot(line.tokens, scaled, style, color=colour, marker=marker, label=_legend(line))
    if len(line.points) > len(line.tokens):
        xs, ys = zip(*line.points, strict=True)
        axes.plot(xs, [y / scale for y in ys], ".", color=colour, alpha=0.5, ms=2.5)
    for tokens, status in line.failed:
        # A terminal cross at the height of the last good point.
        axes.plot([tokens], [scaled[-1]], "x", color=colour, ms=6, mew=1.5)
        axes.annotate(f" {status}", (tokens, scaled[-1]), fontsize=6, color=colour)


def _legend(line: Series) -> str:
    if line.law is None:
        return line.label
    spread = ""
    if line.law.interval is not None:
        spread = f" \\pm {(line.law.interval[1] - line.law.interval[0]) / 2:.2f}"
    exponent = f"$N^{{\\,{line.law.exponent:.2f}{spread}}}$"
    return f"{line.label}: {exponent} from N = {line.law.smallest:.0f}"


def _label_axes(axes: Any, sizes: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.set_xticks(sizes)
    axes.xaxis.set_major_formatter(plain)
    axes.xaxis.set_minor_locator(NullLocator())
    if len(sizes) > 6:
        axes.tick_params(axis="x", labelrotation=45)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_formatter(NullFormatter())


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
