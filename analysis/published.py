"""Published numbers: what others have measured.

The files are in `results/published`. `published_numbers` in this package is a link to that folder,
so that an installed package has a copy of them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.curves import Reference
from analysis.errors import AnalysisError
from analysis.quantities import Quantity
from analysis.table import Cell, Row
from bench.records.reading import parse_json

FOLDER = Path(__file__).with_name("published_numbers")
SCHEMA_FILE = Path(__file__).with_name("published.schema.json")
COLUMNS = (
    *("work", "identifier", "figure", "quantity", "unit", "axis", "axis_unit", "device", "count"),
    *("system", "at", "bound", "value", "status", "obtained", "source"),
)
_FACTORS = {"GB": 1e9, "%": 0.01}


@dataclass(frozen=True, slots=True)
class Point:
    """One published number, or that there is none.

    Attributes:
        at: Its place on the axis; None if it was not said.
        value: In the figure's unit; None if the case did not end well.
        bound: ``about``, ``at least``, ``at most`` or ``less than`` where the number is said so.
        status: How the case ended, if not well.
    """

    at: float | None
    value: float | None
    bound: str
    status: str


@dataclass(frozen=True, slots=True)
class PublishedSeries:
    """What one system reached in one figure of a work.

    Attributes:
        name: What legends call the work.
        work: Its title.
        identifier: Where it is found.
        figure: What the figure is of.
        quantity: The name of our metric where one means the same.
        unit: Of its values.
        axis: What they are over.
        axis_unit: Its unit.
        device: Hardware; empty if it was not said.
        vendor: Whose; empty if it was not said.
        count: How many of them.
        system: Which software.
        points: Its numbers.
        source: Where exactly they stand.
        obtained: ``stated`` as numbers, or ``digitized`` from a figure.
    """

    name: str
    work: str
    identifier: str
    figure: str
    quantity: str
    unit: str
    axis: str
    axis_unit: str
    device: str
    vendor: str
    count: int | None
    system: str
    points: tuple[Point, ...]
    source: str
    obtained: str

    @property
    def hardware(self) -> str:
        """Device and how many, for people."""
        if not self.device:
            return "not said"
        return self.device if self.count in {None, 1} else f"{self.count} × {self.device}"

    @property
    def told(self) -> str:
        """Its numbers in one line."""
        words = []
        for point in self.points:
            number = f"{point.value:g}" if point.value is not None else point.status
            place = "" if point.at is None else f"{point.at:g}: "
            words.append(f"{place}{point.bound} {number}" if point.bound else f"{place}{number}")
        return ", ".join(words)


def read_published(folder: Path) -> list[PublishedSeries]:
    """All published series of a folder's JSON files; none if there is no such folder.

    Raises:
        AnalysisError: a file cannot be read or is not as the schema says; it names file and place.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = parse_json(path.read_bytes())
        except OSError as error:
            raise AnalysisError(f"{path}: {error.strerror}") from None
        except ValueError as error:
            raise AnalysisError(f"{path}: not JSON: {error}") from None
        _check(path, content)
        found += [
            _series(content, figure, series)
            for figure in content["figures"]
            for series in figure["series"]
        ]
    return found


def _check(path: Path, content: Any) -> None:
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(json.loads(SCHEMA_FILE.read_bytes()))
    error = next(iter(validator.iter_errors(content)), None)
    if error is not None:
        where = ".".join(map(str, error.absolute_path)) or "file"
        raise AnalysisError(f"{path}: {where}: {' '.join(error.message.split()):.200}")


def _series(work: dict[str, Any], figure: dict[str, Any], series: dict[str, Any]) -> Any:
    hardware, axis = figure["hardware"], figure["axis"]
    return PublishedSeries(
        **{key: work[key] for key in ("name", "work", "identifier")},
        **{key: figure[key] for key in ("figure", "quantity", "unit", "source", "obtained")},
        axis=axis["name"],
        axis_unit=axis["unit"],
        device=hardware["device"] or "",
        vendor=hardware["vendor"] or "",
        count=hardware["count"],
        system=series["system"],
        points=tuple(
            Point(each["at"], each.get("value"), each.get("bound", ""), each.get("status", ""))
            for each in series["points"]
        ),
    )


def comparable(published: Sequence[PublishedSeries], rows: Sequence[Row]) -> list[PublishedSeries]:
    """Return the series of one device, of each quantity those whose device is the nearest.

    That is a device of the kind that records are of; if there is none, one of the same vendor; if
    there is none such, any.
    """
    names = {device["name"] for row in rows for device in row.record["devices"]}
    vendors = {device["vendor"] for row in rows for device in row.record["devices"]}
    found: list[PublishedSeries] = []
    for quantity in dict.fromkeys(each.quantity for each in published):
        single = [s for s in published if s.quantity == quantity and s.count == 1 and s.device]
        same = [each for each in single if any(each.device in name for name in names)]
        found += same or [each for each in single if each.vendor in vendors] or single
    return found


def on_accelerators(rows: Sequence[Row]) -> bool:
    """Whether any record is of an accelerator."""
    return any(device["kind"] != "cpu" for row in rows for device in row.record["devices"])


def references(published: Sequence[PublishedSeries], quantity: Quantity) -> list[Reference]:
    """The published lines of a quantity over tokens, in the unit of our records."""
    found = []
    for each in published:
        if each.quantity not in quantity.metrics or each.axis != "tokens":
            continue
        factor = _FACTORS.get(each.unit, 1.0)
        points = [(p.at, p.value * factor) for p in each.points if p.at and p.value]
        failed = [(p.at, p.status) for p in each.points if p.at and p.status]
        if points:
            label = f"published: {each.system}, {each.hardware}"
            found.append(Reference(label, tuple(points), tuple(failed)))
    return found


def published_lines(published: Sequence[PublishedSeries]) -> list[tuple[Cell, ...]]:
    """Every published number as a line of a table."""
    return [
        (
            *(each.work, each.identifier, each.figure, each.quantity, each.unit),
            *(each.axis, each.axis_unit, each.device, each.count, each.system),
            *(point.at, point.bound, point.value, point.status, each.obtained, each.source),
        )
        for each in published
        for point in each.points
    ]
