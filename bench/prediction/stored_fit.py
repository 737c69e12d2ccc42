"""Fit of a device as a JSON file, in the cache folder or elsewhere."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.errors import StorageError
from bench.prediction.fit import Fit
from refsys.costs.achievable import Accuracy, Achievable, assumed
from refsys.costs.machines import Machine
from refsys.errors import HomeError
from refsys.files import parse_json, write_json
from refsys.home import home

_FORMAT = "foldperf.fit/1"


def fit_file(device: str) -> Path:
    """Return the file of a device's fit in the cache folder.

    Raises:
        HomeError: There is no cache folder.
    """
    name = "".join(c if c.isalnum() else "-" for c in device)
    return home() / "prediction" / f"{name}.json"


def save_fit(fit: Fit, path: Path | None = None) -> Path:
    """Write a fit, to the cache folder if no file is given, and return the file.

    Raises:
        HomeError: There is no cache folder.
        OSError: The file cannot be written.
    """
    path = path or fit_file(fit.machine.name)
    machine = asdict(fit.machine) | {"achieved": sorted(fit.machine.achieved)}
    table: dict[str, Any] = {"format": _FORMAT, **asdict(fit), "machine": machine}
    write_json(path, table | {"records": list(fit.records)})
    return path


def read_fit(path: Path) -> Fit:
    """Return the fit in a file.

    Raises:
        StorageError: The file cannot be read, or is not a fit.
    """
    try:
        table = parse_json(path.read_bytes())
        if table["format"] != _FORMAT:
            raise ValueError(f"format {str(table['format'])[:40]!r} is not {_FORMAT}")
        machine = table["machine"]
        return Fit(
            machine=Machine(**{**machine, "achieved": frozenset(machine["achieved"])}),
            slowdowns={str(name): float(slowdown) for name, slowdown in table["slowdowns"].items()},
            records=tuple(map(str, table["records"])),
            accuracy=Accuracy(**table["accuracy"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{path}: not a readable fit: {error}; fit the records again") from None


def stored_fractions(device: str) -> Achievable:
    """Return the fractions fitted on a device of that name; the assumed ones without a fit."""
    try:
        return read_fit(fit_file(device)).achievable()
    except (HomeError, StorageError):
        return assumed()
