"""Predictions beside published numbers: pairs, table and figure of ``docs/predictions.md``.

As a script, write both from recorded simulations:
``python -m analysis.predictions RECORDS docs/predictions.md docs/figures/predictions.png``.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from analysis.drawing import (
    MAX_LINES,
    PAGE,
    legend_above,
    legend_rows,
    line_style,
    paper_style,
    save,
    subplots,
)
from analysis.errors import AnalysisError
from analysis.published import FOLDER, Point, PublishedSeries, read_published
from analysis.published_matches import FORWARD, OPERATORS, PEAK, STAGES, Match, matches
from bench.records.reading import read_records

MEMORY, TIME = "peak memory", "time"
BEGIN, END = "<!-- predictions: begin -->", "<!-- predictions: end -->"
_BOTH = (MEMORY, TIME)
_FACTORS = {"GB": 1e9, "s": 1.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Published number, or a published case that fitted or did not, and its prediction.

    Attributes:
        name: Name of the implementation in legends.
        device: Device, as published.
        case: Size of the case, in words.
        quantity: `MEMORY` or `TIME`.
        published: Published number. Unit: B or s. None if it is known only that the case fits.
        about: Whether the number is stated as approximate.
        fits: Whether the published case fitted; None where there is a number.
        predicted: Predicted number. Unit: B or s.
        memory: Memory of the device. Unit: B.
        operator: Whether the case is one operator.
    """

    name: str
    device: str
    case: str
    quantity: str
    published: float | None
    about: bool = False
    fits: bool | None = None
    predicted: float
    memory: float
    operator: bool = False

    @property
    def ratio(self) -> float | None:
        """Predicted over published number; None where no number is published."""
        return None if self.published is None else self.predicted / self.published

    @property
    def agrees(self) -> bool:
        """Return whether the predicted tensors fit in the device as the published case did."""
        return (self.predicted <= self.memory) == self.fits


def pairs(records: Iterable[Mapping[str, Any]], published: Sequence[PublishedSeries]) -> list[Pair]:
    """Return each published point that is matched, with its prediction.

    Raises:
        AnalysisError: A record of a match is missing.
    """
    listed = list(records)
    paired: dict[tuple[str, ...], Pair] = {}
    for match in matches():
        for series in published:
            if (series.name, series.figure, series.system) != match[1:4]:
                continue
            for point in series.points:
                pair = _pair(match, series, point, listed)
                if pair is not None:
                    key = (pair.name, pair.device, pair.case, pair.quantity)
                    paired.setdefault(key, pair)
    return list(paired.values())


def _pair(
    match: Match,
    series: PublishedSeries,
    point: Point,
    records: Sequence[Mapping[str, Any]],
) -> Pair | None:
    axes = None if point.at is None else match.axes_at(point.at)
    if axes is None or point.status == "unsupported":
        return None
    # A case that ran out of memory is a fact of its memory, in whichever figure it is.
    metric = PEAK if point.status else match.metric
    record = _record(records, match, axes)
    predicted = record["metrics"].get(metric, {}).get("value")
    if predicted is None:
        raise AnalysisError(f"record {record['run_id']} has no {metric}; simulate the case again")
    number = None
    if point.value is not None and series.quantity != "longest_tokens":
        number = point.value * _FACTORS[series.unit]
    return Pair(
        name=match.name,
        device=series.hardware,
        case=_case(match, axes),
        quantity=MEMORY if metric == PEAK else TIME,
        published=number,
        about=point.bound == "about",
        fits=None if number is not None else not point.status,
        predicted=predicted,
        memory=record["devices"][0]["memory_bytes"],
        operator=match.workload == OPERATORS,
    )


def _record(
    records: Sequence[Mapping[str, Any]], match: Match, axes: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return the newest record of a workload, device and axes.

    Raises:
        AnalysisError: There is none.
    """
    suitable = [
        record
        for record in records
        if record["workload"]["name"] == match.workload
        and record["devices"][0]["name"].startswith(match.device)
        and axes.items() <= record["workload"]["config"].items()
        and not record["notes"].get("idea_left_out")
    ]
    if not suitable:
        described = ", ".join(f"{name}={value}" for name, value in axes.items())
        raise AnalysisError(
            f"no record of {match.workload} on {match.device} with {described}; "
            "run python -m bench.simulation.published_cases"
        )
    return max(suitable, key=lambda record: str(record["started_at"]))


def _case(match: Match, axes: Mapping[str, Any]) -> str:
    words = [f"{axes['tokens']:,} tokens"]
    if match.positions is STAGES:
        words.insert(0, str(axes["stage"]).replace("_", " "))
    if match.workload == OPERATORS:
        words.append("forward" if match.metric == FORWARD else "forward and backward")
    return ", ".join(words)


def table(found: Sequence[Pair]) -> str:
    """Return the tables of the page: errors of each implementation, then of each number."""
    lines = [
        "| predicted over published | peak memory | time |",
        "|--|--|--|",
    ]
    for name in _names(found):
        cells = [_ratios([p for p in found if (p.name, p.quantity) == (name, q)]) for q in _BOTH]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "| implementation | device | case | peak, GB | predicted | error | time, s | predicted "
        "| error |",
        "|--|--|--|--|--|--|--|--|--|",
    ]
    for key in dict.fromkeys((p.name, p.device, p.case) for p in found):
        by_quantity = {p.quantity: p for p in found if (p.name, p.device, p.case) == key}
        cells = [cell for quantity in _BOTH for cell in _cells(by_quantity.get(quantity))]
        lines.append(f"| {' | '.join((*key, *cells))} |")
    return "\n".join(lines)


def _names(found: Sequence[Pair]) -> list[str]:
    return list(dict.fromkeys(pair.name for pair in found))


def _ratios(found: Sequence[Pair]) -> str:
    """Return the median of the ratios, with their range, and the cases that fitted or did not."""
    ratios = [pair.ratio for pair in found if pair.ratio is not None]
    texts = []
    if ratios:
        texts.append(f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    bounds = [pair.agrees for pair in found if pair.published is None]
    if bounds:
        texts.append(f"fits or not: {sum(bounds)} of {len(bounds)} agree")
    return "; ".join(texts) or "–"


def _cells(pair: Pair | None) -> tuple[str, str, str]:
    if pair is None:
        return "–", "–", "–"
    unit = 1e9 if pair.quantity == MEMORY else 1.0
    predicted = _number(pair.predicted / unit)
    if pair.published is not None:
        about = "≈ " if pair.about else ""
        error = f"{pair.predicted / pair.published - 1:+.0%}"
        return f"{about}{pair.published / unit:,.4g}", predicted, error.replace("-", "−")
    memory = _number(pair.memory / unit)
    stated = f"fits in {memory}" if pair.fits else f"out of {memory}"
    return stated, predicted, "agrees" if pair.agrees else "disagrees"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def draw(found: Sequence[Pair]) -> Any:
    """Return the figure: predicted against published numbers, on logarithmic axes."""
    numbers = [pair for pair in found if pair.published is not None]
    steps = [pair for pair in numbers if pair.quantity == TIME and not pair.operator]
    panels = [
        ("peak memory, GB", 1e9, [pair for pair in numbers if pair.quantity == MEMORY]),
        ("time of a step, s", 1.0, steps),
        ("time of an operator, ms", 1e-3, [pair for pair in numbers if pair.operator]),
    ]
    names = _names(numbers)
    with paper_style():
        figure, axes = subplots(3, 2.5, PAGE, legend_rows(names, PAGE))
        handles: dict[str, Any] = {}
        for axis, (title, unit, shown) in zip(axes, panels, strict=True):
            points = [(p.name, (p.published or 0.0) / unit, p.predicted / unit) for p in shown]
            for name in _names(shown):
                style = line_style(names.index(name))
                of_name = [point[1:] for point in points if point[0] == name]
                (handles[name],) = axis.plot(
                    *zip(*of_name, strict=True),
                    style.marker,
                    color=style.colour,
                    label=name,
                    linestyle="",
                    # Colours repeat.
                    fillstyle="full" if names.index(name) < MAX_LINES else "none",
                )
            _diagonal(axis, [value for point in points for value in point[1:]])
            axis.set_title(title)
            axis.set_xlabel("published")
            axis.set_ylabel("predicted")
        legend_above(figure, [handles[name] for name in names])
    return figure


def _diagonal(axis: Any, values: Sequence[float]) -> None:
    """Plot the lines of equality and of a factor of 2, with the same range on both axes."""
    low, high = min(values) / 1.6, max(values) * 1.6
    for factor in (0.5, 1.0, 2.0):
        axis.plot(
            [low, high],
            [low * factor, high * factor],
            marker="",
            linestyle="-" if factor == 1.0 else ":",
            color="#888888",
            linewidth=0.7,
            zorder=0,
        )
    axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")


def inserted(page: str, text: str) -> str:
    """Return a page with the text between its two markers replaced.

    Raises:
        AnalysisError: The page has not both markers.
    """
    before, begin, remainder = page.partition(BEGIN)
    _, end, after = remainder.partition(END)
    if not (begin and end):
        raise AnalysisError(f"the page has no lines {BEGIN} and {END}; add both")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def recorded_pairs(records: Path, published: Path = FOLDER) -> list[Pair]:
    """Return the pairs of a file of records and the published numbers of a folder."""
    return pairs(
        [record.as_dict() for record in read_records([records])], read_published(published)
    )


def main(records: Path, page: Path, out: Path) -> None:
    """Write the tables into a page, and the figure as an image of the format that `out` names."""
    found = recorded_pairs(records)
    page.write_text(inserted(page.read_text(encoding="utf-8"), table(found)), encoding="utf-8")
    source = f"records of {records.name}"
    save(draw(found), out.parent, out.stem, source, [out.suffix.removeprefix(".")])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
