"""Runs of single cases of a frontier, each in a process of its own and a record like any other."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cgroup import usable_memory_bytes
from bench.frontier.memory import Memory
from bench.frontier.search import Outcome
from bench.progress import Progress
from bench.records.reading import read_records
from bench.records.record import Record
from bench.records.record_file import RECORDS
from bench.run.measure import Protocol
from bench.run.runner import Runner
from bench.run.sweep import Case, Sweep
from workloads.workload import Catalogue, Config, Workload

SWEEP = "frontier"
# A first step, a steady one, and a timed one.
_PROTOCOL = Protocol(warmup_steps=0, timed_steps=1, counts=False, energy_s=0.1)
# The C library returns freed blocks at once, so that a process holds what its tensors need.
_RETURNING = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
# Resident memory of the launcher of several ranks.
_LAUNCHER_BYTES = 2**30
# Statuses that say that a case is too large, where the shortest one is not.
_TOO_LONG = frozenset({"oom", "unsupported"})


class Log(Progress):
    """Progress of a search, the number of whose runs is not known: one line about each.

    Estimates of the time of a single case are left out.
    """

    def __init__(self) -> None:
        super().__init__(0, SWEEP)

    def skip(self, line: str) -> None:
        """See `Progress`."""
        super().say(line)

    def say(self, line: str) -> None:
        """See `Progress`."""


@dataclass(frozen=True, slots=True)
class CaseRuns:
    """Runs of one workload under a memory limit.

    Attributes:
        workload: Workload of the cases.
        memory: Memory of a rank.
        timeout_s: Longest time of a case, after which it counts as failed.
        results: Folder of records.
        store: Folder of prepared inputs.
        catalogue: Workloads.
        command: Words that run the whole search again.
        retry: Statuses whose records are dropped, so that their cases run again.
    """

    workload: Workload
    memory: Memory
    timeout_s: float
    results: Path
    store: Path
    catalogue: Catalogue
    command: Sequence[str] = ()
    retry: Collection[str] = ()

    @property
    def folder(self) -> Path:
        """Folder of the records."""
        return self.results / "runs" / SWEEP

    def record(self, config: Config, ranks: int) -> Record:
        """Return the record of a case: of an earlier run if there is one, else run it.

        Raises:
            StorageError: the record cannot be written.
            UsageError: the source was edited meanwhile.
            WorkloadError: inputs of the case are not there.
        """
        sweep = self._sweep(config, ranks)
        runner = Runner(sweep, self.folder, self.store, self.catalogue)
        runner.run(Log(), self.command, self.retry)
        key = runner.key(sweep.cases[0])
        records = read_records([self.folder / RECORDS])
        return next(record for record in reversed(records) if record.key == key)

    def _sweep(self, config: Config, ranks: int) -> Sweep:
        on_cpu = self.memory.kind == "cpu"
        title = self.workload.title(config) + (f" ranks={ranks}" if ranks > 1 else "")
        case = Case(
            title=title,
            workload=self.workload.name,
            config=config,
            axes=self.workload.values(config),
            device=self.memory.device,
            ranks=ranks,
            replicate=0,
            seed=0,
            protocol=_PROTOCOL,
            share_cores=True,
        )
        usable = usable_memory_bytes()
        allowed = ranks * self.memory.nbytes + _LAUNCHER_BYTES * (ranks > 1)
        return Sweep(
            name=SWEEP,
            description="longest sequences by isolated runs",
            cases=(case,),
            timeout_s=self.timeout_s,
            memory_limit_bytes=min(allowed, usable) if on_cpu else usable,
            scale_timeout=False,
            environment=_RETURNING if on_cpu else {},
        )


def resident_peak_bytes(record: Record) -> int | None:
    """Return the largest resident memory of a rank's process, all of it. Unit: B.

    By the kernel's high-water mark where it can be had; else a lower bound, the mean over ranks of
    what the guard saw.
    """
    ranks = record.workload.ranks
    baseline = _by_rank(record, "baseline_resident_bytes")
    peaks = [
        _by_rank(record, name) for name in ("first_step_peak_resident_bytes", "peak_resident_bytes")
    ]
    marks = [
        start + max(first, steady)
        for start, first, steady in zip(baseline, *peaks, strict=False)
        if start is not None and first is not None and steady is not None
    ]
    if len(marks) == ranks:
        return int(max(marks))
    watched = record.protocol.watched_resident_bytes
    if watched is None:
        return None
    return max(watched - _LAUNCHER_BYTES * (ranks > 1), 0) // ranks


def _by_rank(record: Record, name: str) -> Sequence[float | None]:
    metric = record.metrics.get(name)
    if metric is None:
        return ()
    return metric.ranks or (metric.value,)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a search.

    Attributes:
        tokens: Length.
        record: Its record.
        outcome: Meaning for the search.
        peak_bytes: Largest memory of a rank: resident on a CPU, that of the allocator on an
            accelerator; of a case that did not end well a lower bound. Unit: B.
        reason: Why it does not fit; empty if it does.
    """

    tokens: int
    record: Record
    outcome: Outcome
    peak_bytes: int | None
    reason: str

    @property
    def status(self) -> str:
        """Status of the case; ``oom`` also where it exceeded the limit unnoticed by the guard."""
        status = self.record.status
        return "oom" if (status, self.outcome) == ("ok", "too long") else status

    @property
    def peak_is_lower_bound(self) -> bool:
        """Return whether the case was stopped before its peak was known."""
        return self.record.status != "ok"


def judged(tokens: int, record: Record, memory: Memory) -> Run:
    """Return a run with its meaning for the search.

    A guard looks at intervals and can miss a short peak, which the high-water mark has.
    """
    if memory.kind == "cpu":
        peak = resident_peak_bytes(record)
    else:
        reserved = record.value("peak_reserved_bytes")
        peak = None if reserved is None else int(reserved)
    if record.status != "ok":
        outcome: Outcome = "too long" if record.status in _TOO_LONG else "failed"
        return Run(tokens, record, outcome, peak, record.reason or record.status)
    if memory.kind == "cpu" and peak is not None and peak > memory.nbytes:
        reason = (
            f"resident memory of {peak / 2**30:.2f} GiB exceeded the limit of {memory.gib:g} GiB"
        )
        return Run(tokens, record, "too long", peak, reason)
    return Run(tokens, record, "fits", peak, "")
