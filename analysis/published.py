"""Published numbers of other systems.

The files are in `results/published`. `published_numbers` in this package is a link to that folder,
so that an installed package has a copy of them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.errors import AnalysisError
from analysis.quantities import Quantity
from bench.records.reading import parse_json

if TYPE_CHECKING:
    # Commands without pandas read published numbers, too.
    import pandas as pd

    from analysis.curves import Reference
    from analysis.table import Row

FOLDER = Path(__file__).with_name("published_numbers")
SCHEMA_FILE = Path(__file__).with_name("published.schema.json")
COLUMNS = (
    *("work", "identifier", "figure", "quantity", "unit", "axis", "axis_unit", "device", "count"),
    *("system", "at", "bound", "value", "status", "obtained", "source"),
)
_FACTORS = {"GB": 1e9, "%": 0.01}


@dataclass(frozen=True, slots=True)
class Point:
    """Published number, or the status of a published case that failed.

    Attributes:
        at: Position on the axis; None if not stated.
        value: Number in the figure's unit; None if the case failed.
        bound: ``about``, ``at least``, ``at most`` or ``less than`` if the number is stated so.
        status: Status of the case if it failed.
    """

    at: float | None
    value: float | None
    bound: str
    status: str


@dataclass(frozen=True, slots=True)
class PublishedSeries:
    """Numbers of one system in one figure of a published work.

    Attributes:
        name: Short name of the work, for legends.
        work: Title of the work.
        identifier: DOI, arXiv number or the like.
        figure: Subject of the figure.
        quantity: Name of the project's metric that means the same, or else a name of its own.
        unit: Unit of the values.
        axis: Quantity of the axis.
        axis_unit: Unit of the axis.
        device: Hardware; empty if not stated.
        vendor: Vendor of the device; empty if not stated.
        count: Number of devices; None if not stated.
        system: Software.
        points: Published numbers.
        source: Figure, table or section of the work.
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
        """Device and count, for display."""
        if not self.device:
            return "not stated"
        return self.device if self.count in {None, 1} else f"{self.count} × {self.device}"

    @property
    def values_text(self) -> str:
        """Published numbers in one line."""
        words = []
        for point in self.points:
            number = f"{point.value:g}" if point.value is not None else point.status
            prefix = "" if point.at is None else f"{point.at:g}: "
            words.append(f"{prefix}{point.bound} {number}" if point.bound else f"{prefix}{number}")
        return ", ".join(words)


def read_published(folder: Path) -> list[PublishedSeries]:
    """Return all published series of a folder's JSON files; none if there is no such folder.

    Raises:
        AnalysisError: A file cannot be read or violates the schema; names the file and the key.
    """
    published = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = parse_json(path.read_bytes())
        except OSError as error:
            raise AnalysisError(f"{path}: {error.strerror}") from None
        except ValueError as error:
            raise AnalysisError(f"{path}: not JSON: {error}") from None
        _check(path, content)
        published += [
            _series(content, figure, series)
            for figure in content["figures"]
            for series in figure["series"]
        ]
    return published


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
            Point(point["at"], point.get("value"), point.get("bound", ""), point.get("status", ""))
            for point in series["points"]
        ),
    )


def comparable(
    published: Sequence[PublishedSeries], rows: "Sequence[Row]"
) -> list[PublishedSeries]:
    """Return single-device series, for each quantity those of the most similar device.

    A device of the records is preferred, then one of the same vendor, then any.
    """
    names = {device["name"] for row in rows for device in row.record["devices"]}
    vendors = {device["vendor"] for row in rows for device in row.record["devices"]}
    nearest: list[PublishedSeries] = []
    for quantity in dict.fromkeys(s.quantity for s in published):
        single = [s for s in published if s.quantity == quantity and s.count == 1 and s.device]
        same = [s for s in single if any(s.device in name for name in names)]
        nearest += same or [s for s in single if s.vendor in vendors] or single
    return nearest


def on_accelerators(rows: "Sequence[Row]") -> bool:
    """Return whether any record is of an accelerator."""
    return any(device["kind"] != "cpu" for row in rows for device in row.record["devices"])


def references(published: Sequence[PublishedSeries], quantity: Quantity) -> "list[Reference]":
    """Return the published lines of a quantity over tokens, in the records' unit."""
    from analysis.curves import Reference

    lines = []
    for s in published:
        if s.quantity not in quantity.metrics or s.axis != "tokens":
            continue
        factor = _FACTORS.get(s.unit, 1.0)
        points = [(p.at, p.value * factor) for p in s.points if p.at and p.value]
        failed = [(p.at, p.status) for p in s.points if p.at and p.status]
        if points:
            label = f"published: {s.system}, {s.hardware}"
            lines.append(Reference(label, tuple(points), tuple(failed)))
    return lines


def published_table(published: Sequence[PublishedSeries]) -> "pd.DataFrame":
    """Return every published number, a row each."""
    import pandas as pd

    lines = [
        (
            *(s.work, s.identifier, s.figure, s.quantity, s.unit),
            *(s.axis, s.axis_unit, s.device, s.count, s.system),
            *(point.at, point.bound, point.value, point.status, s.obtained, s.source),
        )
        for s in published
        for point in s.points
    ]
    return pd.DataFrame(lines, columns=[*COLUMNS]).astype({"count": "Int64"})
