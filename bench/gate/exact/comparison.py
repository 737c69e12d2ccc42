"""Comparison of fingerprints with the committed baseline.

Costs have no noise, so there is no tolerance: any difference fails, and an intended one is blessed
with a reason. Torch decides how operators decompose, so a baseline holds for one minor version.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.errors import UsageError
from bench.gate.exact.fingerprint import Fingerprint, Key
from refsys.data.store.columns import MALFORMED
from refsys.files import parse_json, write_json

BASELINE = Path(__file__).parents[2] / "baselines" / "exact.json"
CASES = Path(__file__).with_name("cases.toml")
SCHEMA = "foldperf.exact/1"
_COST_COLUMNS = ("calls", "FLOPs", "bytes")


@dataclass(frozen=True, slots=True)
class Change:
    """Figure that differs from the baseline.

    Attributes:
        case: Title of the case.
        quantity: Quantity that differs, as ``forward calls``.
        module: Module path, phase or component.
        operator: Operator, or empty.
        before: The baseline's figure; 0 if it has none.
        after: The candidate's; 0 if it has none.
    """

    case: str
    quantity: str
    module: str
    operator: str
    before: int
    after: int

    def __str__(self) -> str:
        change = f"{self.after - self.before:+,}"
        if self.before:
            change += f", {100 * (self.after / self.before - 1):+.2f} %"
        where = " ".join(filter(None, (self.module or "(root)", self.operator)))
        return f"{where}: {self.quantity} {self.before:,} -> {self.after:,} ({change})"


@dataclass(frozen=True, slots=True)
class Baseline:
    """Blessed fingerprints.

    Attributes:
        torch: Minor version of torch that they hold for.
        reason: Reason for which they were blessed.
        fingerprints: By case title.
    """

    torch: str
    reason: str
    fingerprints: Mapping[str, Fingerprint]


def torch_minor() -> str:
    """Return the running torch's major and minor version."""
    return ".".join(torch.__version__.split("+")[0].split(".")[:2])


def read_baseline(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        UsageError: The file does not exist or cannot be read.
    """
    try:
        table = parse_json(path.read_bytes())
        if table["schema"] != SCHEMA:
            raise UsageError(f"{path}: of schema {table['schema']}, not {SCHEMA}")
        fingerprints = {title: Fingerprint.from_json(row) for title, row in table["cases"].items()}
        for name in ("torch", "reason"):
            if not isinstance(table[name], str):
                raise ValueError(f"{name} is {table[name]!r:.80}, not text")
        return Baseline(table["torch"], table["reason"], fingerprints)
    except FileNotFoundError:
        raise UsageError(f"{path}: no baseline; create one with --bless --reason") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except MALFORMED as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"{path}: not a baseline: {reason:.300}") from None


def write_baseline(path: Path, fingerprints: Mapping[str, Fingerprint], reason: str) -> None:
    """Write fingerprints as the baseline.

    Raises:
        UsageError: The file cannot be written.
    """
    table: dict[str, Any] = {
        "schema": SCHEMA,
        "torch": torch_minor(),
        "reason": reason,
        "cases": {title: fingerprints[title].as_json() for title in sorted(fingerprints)},
    }
    try:
        write_json(path, table)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def compare(
    baseline: Mapping[str, Fingerprint], candidates: Mapping[str, Fingerprint]
) -> list[Change]:
    """Return every figure that differs, within each case the most informative first.

    A case that either side lacks is a difference.
    """
    changes = [
        Change(title, "cases of the baseline", "", "", 1, 0)
        for title in baseline
        if title not in candidates
    ]
    for title, candidate in candidates.items():
        changes += _compare_case(title, baseline.get(title), candidate)
    return changes


def _compare_case(title: str, before: Fingerprint | None, after: Fingerprint) -> list[Change]:
    changes = [
        Change(title, "operators without a FLOP formula", "", operator, 0, 1)
        for operator in after.unpriced
    ]
    if before is None:
        return [*changes, Change(title, "cases without a baseline", "", "", 0, 1)]
    simple = [("parameters", before.parameters, after.parameters)]
    simple += [("peak bytes of phase", before.peaks, after.peaks)]
    for quantity, old, new in simple:
        for name in sorted(old.keys() | new.keys()):
            changes += _change(title, quantity, name, "", old.get(name, 0), new.get(name, 0))
    rows: list[Change] = []
    for key in before.costs.keys() | after.costs.keys():
        rows += _rows(title, key, before.costs, after.costs, _COST_COLUMNS, "{phase} {column}")
    for key in before.peak.keys() | after.peak.keys():
        rows += _rows(title, key, before.peak, after.peak, ("bytes",), "{phase} {column} at peak")
    # Calls and FLOPs say what was done; bytes follow from them.
    rows.sort(
        key=lambda row: (
            "bytes" in row.quantity,
            -abs(row.after - row.before),
            *(row.module, row.operator, row.quantity),
        )
    )
    return changes + rows


def _rows(
    title: str,
    key: Key,
    before: Mapping[Key, tuple[int, ...]],
    after: Mapping[Key, tuple[int, ...]],
    columns: tuple[str, ...],
    quantity: str,
) -> list[Change]:
    phase, module, operator = key
    nothing = (0,) * len(columns)
    pairs = zip(columns, before.get(key, nothing), after.get(key, nothing), strict=True)
    return [
        change
        for column, old, new in pairs
        for change in _change(
            title, quantity.format(phase=phase, column=column), module, operator, old, new
        )
    ]


def _change(
    title: str, quantity: str, module: str, operator: str, before: int, after: int
) -> list[Change]:
    return [] if before == after else [Change(title, quantity, module, operator, before, after)]
