"""Run of a sweep: each case in its own process, each outcome a record.

A case with a record in the folder (`bench.run.case_records` defines its identity) is not run again,
so that a killed sweep resumes where it stopped, and an edit never reuses a stale record. A case
that ended at a limit runs again under another limit, and a case that was measured from uncommitted
source runs again once the source is committed. A case that reaches its time limit
on a machine that has become slower is tried once more (`bench.run.time_limits`).
"""

import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.errors import StorageError, UsageError
from bench.progress import Progress, span
from bench.records import provenance
from bench.records.origin import GitState
from bench.records.record import CaseResult, Record
from bench.records.record_file import RECORDS, RecordFile
from bench.run.case_records import CaseRecords
from bench.run.durations import known_durations
from bench.run.environment import case_environment
from bench.run.isolation import Ended, run_isolated
from bench.run.schedule import Budget, Schedule
from bench.run.sweep import Case, Sweep
from bench.run.time_limits import TimeLimit, TimeLimits
from bench.run.unmeasured import Plan, PlannedCase, Unmeasured, find_unmeasured
from bench.run.verdict import verdict
from workloads.workload import Catalogue

# Note of a record whose case was not started because it cannot run.
_NOT_STARTED = "not_started"


@dataclass(frozen=True, slots=True)
class Summary:
    """Outcome of a run of a sweep.

    Attributes:
        statuses: Number of cases that ended with each status, now or before.
        ran: Number of those that ran now.
        path: The file of records.
        unmeasured: Cases without a measurement; None if there are none.
    """

    statuses: dict[str, int]
    ran: int
    path: Path
    unmeasured: Unmeasured | None


class Runner:
    """Runner of a sweep's cases on this machine, which writes their records."""

    def __init__(self, sweep: Sweep, folder: Path, store: Path, catalogue: Catalogue) -> None:
        """Identify the machine.

        Raises:
            UsageError: the device that the cases want is not there.
            WorkloadError: inputs of a case are not there.
        """
        self._sweep = sweep
        self._limits = TimeLimits(sweep.timeout_s, scaled=sweep.scale_timeout)
        self._file = RecordFile(folder / RECORDS)
        self._store = store
        self._catalogue = catalogue
        self._case_records = CaseRecords(sweep, store, catalogue)
        self._placement = self._case_records.placement

    @property
    def git(self) -> GitState:
        """Commit of the source that is measured, as records have it."""
        return self._case_records.origin.git

    def run(
        self,
        progress: Progress,
        command: Sequence[str],
        retry: Collection[str] = (),
        budget: Budget | None = None,
    ) -> Summary:
        """Run the cases without a record.

        Args:
            progress: Gets a line for every case.
            command: The words that run this sweep, without `retry` and `budget`, to be copied.
            retry: Statuses whose records are dropped first, so that their cases run again.
            budget: Time for all of it; what does not fit is left for another run.

        Raises:
            StorageError: records cannot be written; those written before are intact.
            UsageError: the source was edited meanwhile; those written before are intact.
        """
        keys = [self.key(case) for case in self._sweep.cases]
        planned = map(PlannedCase, keys, (case.title for case in self._sweep.cases))
        seconds = None if budget is None else budget.seconds
        plan = Plan(self._sweep.name, tuple(command), tuple(planned), seconds)
        statuses: Counter[str] = Counter()
        ran = 0
        with self._file.locked():
            schedule = self._schedule(budget)
            impossible = self._impossible(keys)
            self._forget(keys, retry, impossible)
            plan.write(self._file.path.parent)
            with progress:
                for status in self._settled(keys, impossible, schedule, progress):
                    statuses[status] += 1
                if line := schedule.description(span):
                    progress.say(line)
                while (number := schedule.next()) is not None:
                    case = self._sweep.cases[number]
                    progress.start(case.title)
                    record = self._record(case, keys[number], number, schedule)
                    self._file.append(record)
                    schedule.ended(number, record.status, record.duration_s)
                    statuses[record.status] += 1
                    ran += 1
                    progress.expect(schedule.seconds_left())
                    progress.finish(_line(case, record))
        unmeasured = find_unmeasured(plan, self._file.path)
        return Summary(dict(statuses), ran, self._file.path, unmeasured)

    def _impossible(self, keys: Sequence[str]) -> dict[str, str]:
        """Return the reason of each case that cannot run here, by its key."""
        reasons = map(self._placement.unsupported_reason, self._sweep.cases)
        return {key: reason for key, reason in zip(keys, reasons, strict=True) if reason}

    def _forget(
        self, keys: Sequence[str], retry: Collection[str], impossible: Collection[str]
    ) -> None:
        """Drop the records of this sweep's cases that are to run again."""
        own_keys = set(keys)
        self._file.forget(
            lambda record: (
                record.key in own_keys
                and (record.status in retry or self._outdated(record, impossible))
            )
        )

    def _settled(
        self,
        keys: Sequence[str],
        impossible: Mapping[str, str],
        schedule: Schedule,
        progress: Progress,
    ) -> Iterator[str]:
        """Yield the status of each case that is recorded or cannot run, and take it out.

        The latter are recorded as unsupported.
        """
        before = {record.key: record.status for record in self._file.records()}
        for index, (key, case) in enumerate(zip(keys, self._sweep.cases, strict=True)):
            if status := before.get(key):
                schedule.recorded(index, status)
                progress.skip(f"{status:<11} {case.title} (recorded before)")
                yield status
            elif reason := impossible.get(key):
                schedule.leave_out(index)
                record = self._unsupported(case, key, index, reason)
                self._file.append(record)
                progress.skip(_line(case, record))
                yield record.status

    def _schedule(self, budget: Budget | None) -> Schedule:
        """Return the schedule of all cases, with the durations of earlier records."""
        cases, runs = self._sweep.cases, self._file.path.parent.parent
        device = self._placement.descriptions(cases[0])[0]
        durations = known_durations(runs, self._catalogue, self._case_records.origin.host, device)
        return Schedule(cases, self._catalogue, durations, budget)

    def key(self, case: Case) -> str:
        """Return the key of a case's record, which no other record has."""
        return self._case_records.key(case)

    def cell_id(self, case: Case) -> str:
        """Return the hash of workload, axes, ranks and kind of device, without code and machine."""
        return self._case_records.cell_id(case)

    def _outdated(self, record: Record, impossible: Collection[str]) -> bool:
        """Return True if a recorded case would end otherwise now, or can be traced to a commit now.

        It ended at a limit that is another now, was not started for want of something that is
        here now, or was measured of uncommitted source that is committed.
        """
        protocol, sweep = record.protocol, self._sweep
        scaled = protocol.timeout_factor is not None
        before = (protocol.timeout_s, protocol.memory_limit_bytes, scaled)
        now = (sweep.timeout_s, sweep.memory_limit_bytes, sweep.scale_timeout)
        limited = record.status in {"timeout", "oom"} and before != now
        possible = record.notes.get(_NOT_STARTED) and record.key not in impossible
        committed = record.git.dirty is not False and self.git.dirty is False
        return bool(limited or possible or committed)

    def _unsupported(self, case: Case, key: str, index: int, reason: str) -> Record:
        """Return the record of a case that cannot run and is therefore not started."""
        result = CaseResult(status="unsupported", reason=reason, notes={_NOT_STARTED: True})
        nothing = Ended(0, None, 0.0, 0, "")
        return self._case_records.record(case, key, index, datetime.now(UTC), None, result, nothing)

    def _record(self, case: Case, key: str, index: int, schedule: Schedule) -> Record:
        """Run a case and return its record."""
        started, limit = datetime.now(UTC), self._limits.current
        result, ended = self._execute(case, limit)
        longer = self._limits.longer() if ended.cause == "timeout" else None
        if longer and schedule.allows(longer.seconds):
            started, limit = datetime.now(UTC), longer
            result, ended = self._execute(case, limit)
        if provenance.current_source_sha256() != self._case_records.origin.source_sha256:
            raise UsageError(
                f"the source was edited while {case.title} ran, which is not recorded; run the "
                "sweep again"
            )
        return self._case_records.record(case, key, index, started, limit, result, ended)

    def _execute(self, case: Case, limit: TimeLimit) -> tuple[CaseResult, Ended]:
        """Run the case process; return its result, or its status and the reason."""
        request = {
            "parent": os.getpid(),
            "workload": case.workload,
            "config": case.axes,
            "seed": case.seed,
            "device": case.device,
            "store": str(self._store.resolve()),
            "protocol": asdict(case.protocol),
            "timeout_s": limit.seconds,
        }
        start = [str(os.getpid()), str(case.ranks)] if case.ranks > 1 else []
        module = "bench.run.launch" if start else "bench.run.case"
        try:
            with tempfile.TemporaryDirectory(prefix="foldperf-case-") as name:
                folder = Path(name)
                (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
                ended = run_isolated(
                    [
                        *(sys.executable, "-m", module, *start),
                        *(str(folder / "request.json"), str(folder / "result.json")),
                    ],
                    timeout_s=limit.seconds,
                    memory_limit_bytes=self._sweep.memory_limit_bytes,
                    environment=dict(self._sweep.environment)
                    | case_environment(
                        case.ranks, self._case_records.origin.host.cores, self._sweep.threads
                    ),
                )
                paths = [folder / f"result.json.{rank}" for rank in range(case.ranks)]
                domains = self._placement.energy_domains(case)
                most = self._sweep.memory_limit_bytes
                return verdict(ended, paths, limit, most, domains), ended
        except OSError as error:
            path = error.filename or tempfile.gettempdir()
            raise StorageError(f"a case cannot be started: {path}: {error.strerror}") from None


def _line(case: Case, record: Record) -> str:
    """Return the line that says how a case ended."""
    if record.status != "ok":
        return f"{record.status:<11} {case.title}: {record.reason}"
    time, peak = record.value("step_time_s"), record.value("peak_resident_bytes")
    figures = [f"{time * 1e3:.{0 if time > 0.01 else 2}f} ms/step"] if time else []
    figures += [f"{peak / 2**20:.0f} MiB peak"] if peak else []
    figures += record.metrics["step_time_s"].flags
    return f"{'ok':<11} {case.title}: {', '.join(figures)}"
