"""Curves of published numbers."""

from functools import cache

from analysis.paper.selection import Curve
from analysis.published import FOLDER, PublishedSeries, read_published

_FACTORS = {"GB": 1e9, "TFLOP/s": 1e12}


@cache
def _published() -> tuple[PublishedSeries, ...]:
    return tuple(read_published(FOLDER))


def published_points(figure: str, system: str) -> list[tuple[float, float]]:
    """Return the published (position, value) points of a system, in SI units."""
    return [
        (point.at, point.value * _FACTORS.get(series.unit, 1.0))
        for series in _published()
        if (series.figure, series.system) == (figure, system)
        for point in series.points
        if point.at is not None and point.value is not None
    ]


def published_number(figure: str, system: str) -> float | None:
    """Return a published number that has no position; None if there is none."""
    for series in _published():
        if (series.figure, series.system) == (figure, system):
            return next((p.value for p in series.points if p.value is not None), None)
    return None


def published_curve(name: str, figure: str, system: str) -> Curve:
    """Return the published curve of a system, with the sizes at which it ran out of memory.

    Args:
        name: Name of the system in `analysis.palette`.
        figure: Subject of the published figure.
        system: Published system.
    """
    failed = [
        point.at
        for series in _published()
        if (series.figure, series.system) == (figure, system)
        for point in series.points
        if point.at is not None and point.status == "oom"
    ]
    return Curve(name, "published", published_points(figure, system), failed)
