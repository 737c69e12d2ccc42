"""Cases of a sweep without a measurement, named together with the command that runs them.

A run writes its plan beside its records: the cases, and the command as it was called. Plan and
records together tell what is missing, to the run itself and to every later reader of the folder.
"""

import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.errors import StorageError
from bench.records.reading import read_records
from bench.records.record_file import RECORDS
from refsys.files import write_json

PLAN = "plan.json"
NO_RECORD = "no record"
# Statuses that another run may replace by a measurement; unsupported cases stay so.
_RETRIED = ("blocked", "crash", "oom", "timeout")


@dataclass(frozen=True, slots=True)
class PlannedCase:
    """Case of a sweep as it was last run.

    Attributes:
        key: Key of its record.
        title: Title in one line.
    """

    key: str
    title: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Cases of a run, and the command that runs them.

    Attributes:
        sweep: The sweep's name.
        command: The words that run it, without ``--retry``.
        cases: All of its cases, in order.
        budget_s: Time that the run had; None if it was to take as long as needed. Unit: s.
    """

    sweep: str
    command: tuple[str, ...]
    cases: tuple[PlannedCase, ...]
    budget_s: float | None = None

    def write(self, folder: Path) -> None:
        """Write the plan beside the records of a folder.

        Raises:
            StorageError: it cannot be written.
        """
        try:
            write_json(folder / PLAN, asdict(self))
        except OSError as error:
            raise StorageError(f"{folder / PLAN}: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """Cases of a plan without a measurement.

    Attributes:
        plan: The plan.
        cases: Title of each, and how it ended or `NO_RECORD`.
    """

    plan: Plan
    cases: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        named = self.cases
        if self.plan.budget_s is not None:
            # There may be very many, and it is clear why.
            named = tuple(case for case in self.cases if case[1] != NO_RECORD)
        parts = [f"{title} ({status})" for title, status in named]
        if left_out := len(self.cases) - len(named):
            minutes = (self.plan.budget_s or 0.0) / 60
            parts.append(f"{left_out} left by a budget of {minutes:g} min")
        return (
            f"{len(self.cases)} of {len(self.plan.cases)} cases of {self.plan.sweep} are not "
            f"measured: {', '.join(parts)}; to run them: {shlex.join(self.command)}"
        )

    @property
    def command(self) -> list[str]:
        """Return the words that run these cases and no other."""
        ended = sorted({status for _, status in self.cases} - {NO_RECORD})
        return [*self.plan.command, *(["--retry", *ended] if ended else [])]


def find_unmeasured(plan: Plan, records: Path) -> Unmeasured | None:
    """Return the cases of a plan without a measurement in a file; None if there are none.

    Raises:
        StorageError: The records cannot be read.
    """
    ended = {record.key: record.status for record in read_records([records])}
    statuses = [(case.title, ended.get(case.key, NO_RECORD)) for case in plan.cases]
    cases = tuple(case for case in statuses if case[1] in {NO_RECORD, *_RETRIED})
    return Unmeasured(plan, cases) if cases else None


def unmeasured_in(paths: Iterable[Path]) -> list[Unmeasured]:
    """Return the cases without a measurement in the folders of record files, by their plans.

    A folder without a plan, of promoted records for example, has none.

    Args:
        paths: Record files, and folders that are searched.
    """
    return [
        missing
        for path in paths
        for file in _plans(path)
        if (plan := _read(file)) and (records := file.with_name(RECORDS)).exists()
        if (missing := find_unmeasured(plan, records))
    ]


def _plans(path: Path) -> Iterator[Path]:
    yield from sorted(path.rglob(PLAN)) if path.is_dir() else [path.with_name(PLAN)]


def _read(path: Path) -> Plan | None:
    """Return the plan of a file; None if there is none or it is damaged."""
    try:
        table: dict[str, Any] = json.loads(path.read_bytes())
        command: Sequence[object] = table["command"]
        budget = table.get("budget_s")
        return Plan(
            str(table["sweep"]),
            tuple(map(str, command)),
            tuple(PlannedCase(str(case["key"]), str(case["title"])) for case in table["cases"]),
            None if budget is None else float(budget),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
