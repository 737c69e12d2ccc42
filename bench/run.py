"""Running a sweep: each case in its own process, each outcome a record.

A case is known by (cell, replicate, protocol, inputs, code, machine, software). What the folder
holds already is not run again, so that a sweep that was killed goes on where it stopped, and an
edit never meets a stale record. What ended at a limit runs again under another limit, and what was
measured of uncommitted source runs again once it is committed. A case that reaches its time limit
on a machine that has become slower is tried once more (`bench.time_limits`).
"""

import json
import os
import sys
import sysconfig
import tempfile
import uuid
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import provenance
from bench.devices import Device, find_device
from bench.errors import StorageError, UsageError
from bench.isolation import Ended, run_isolated
from bench.metrics import METRIC_FIELDS
from bench.progress import Progress
from bench.ranks import energy_domains, merged
from bench.record import SCHEMA, STATUSES, Record, metric
from bench.record_file import RECORDS, RecordFile
from bench.sweep import Case, Sweep, digest
from bench.time_limits import TimeLimit, TimeLimits
from bench.unmeasured import Plan, PlannedCase, Unmeasured, find_unmeasured
from workloads.workload import Catalogue, Facts

_VERSIONS = ("python", "torch", "triton", "numpy", "cuda", "rocm")
_PARTS = ("metrics", "telemetry", "facts", "outcome", "breakdown", "notes")
_FACTS = {field.name for field in fields(Facts)}
_DEVICE_IDENTITY = ("kind", "name", "uuid_hash", "driver", "power_cap_w", "partition", "ecc")
_IDENTITY = ("cpu", "cores", "hostname_hash")


@dataclass(frozen=True, slots=True)
class Summary:
    """What running a sweep came to.

    Attributes:
        statuses: How many cases ended with each status, now or before.
        ran: How many of them ran now.
        path: The file of records.
        unmeasured: Cases without a measurement; None if there are none.
    """

    statuses: dict[str, int]
    ran: int
    path: Path
    unmeasured: Unmeasured | None


class Runner:
    """Runs cases on this machine and makes records of them."""

    def __init__(self, sweep: Sweep, folder: Path, store: Path, catalogue: Catalogue) -> None:
        """Looks at the machine.

        Raises:
            UsageError: a case wants a device that is not there.
            WorkloadError: inputs of a case are not there.
        """
        self._sweep = sweep
        self._limits = TimeLimits(sweep.timeout_s, scaled=sweep.scale_timeout)
        self._file = RecordFile(folder / RECORDS)
        self._store = store
        self._catalogue = catalogue
        self._devices: dict[tuple[str, int], Device] = {
            (case.device, index): find_device(case.device, index)
            for case in sweep.cases
            for index in range(case.ranks)
        }
        self._git = provenance.git_state()
        self._host = provenance.host()
        self._software = provenance.software()
        self._source = provenance.source_sha256()
        self._environment = provenance.environment()
        self._inputs = {
            _config_id(case): catalogue[case.workload].inputs(case.config, store)
            for case in sweep.cases
        }

    @property
    def git(self) -> dict[str, Any]:
        """Commit of the source that is measured, as records have it."""
        return self._git

    def run(
        self, progress: Progress, command: Sequence[str], retry: Collection[str] = ()
    ) -> Summary:
        """Run the cases without a record.

        Args:
            progress: Gets a line for every case.
            command: The words that run this sweep, without `retry`, for people to copy.
            retry: Statuses whose records are dropped first, so that their cases run again.

        Raises:
            StorageError: records cannot be written; those written before are intact.
            UsageError: the source was edited meanwhile; those written before are intact.
        """
        planned = [PlannedCase(self.key(case), case.title) for case in self._sweep.cases]
        plan = Plan(self._sweep.name, tuple(command), tuple(planned))
        with self._file.locked():
            keys = {case.key for case in planned}
            self._file.forget(
                lambda record: (
                    record["key"] in keys and (record["status"] in retry or self._outdated(record))
                )
            )
            plan.write(self._file.path.parent)
            done = {record["key"]: record["status"] for record in self._file.records()}
            statuses: Counter[str] = Counter()
            ran = 0
            with progress:
                for index, case in enumerate(self._sweep.cases):
                    key = planned[index].key
                    progress.start(case.title)
                    if key in done:
                        statuses[done[key]] += 1
                        progress.skip(f"{done[key]:<11} {case.title} (recorded before)")
                        continue
                    record = self._record(case, key, index)
                    self._file.append(record)
                    done[key] = record["status"]
                    statuses[record["status"]] += 1
                    ran += 1
                    progress.finish(_line(case, record))
        unmeasured = find_unmeasured(plan, self._file.path)
        return Summary(dict(statuses), ran, self._file.path, unmeasured)

    def key(self, case: Case) -> str:
        """What tells a case's record from every other."""
        foreign = self._foreign(case)
        # Of another package's workload the rest of what is installed may be a part.
        packages = foreign and self._software["packages_sha256"]
        device = self._devices[case.device, 0].describe().as_json()
        return digest(
            {
                "cell": self.cell_id(case),
                "replicate": case.replicate,
                "protocol": asdict(case.protocol),
                "seed": case.seed,
                "inputs": self._inputs[_config_id(case)],
                "code": [self._source, foreign, packages],
                "machine": {name: self._host[name] for name in _IDENTITY},
                "device": {name: device[name] for name in _DEVICE_IDENTITY},
                "software": {name: self._software[name] for name in _VERSIONS},
                "environment": self._environment,
            }
        )

    def _foreign(self, case: Case) -> str | None:
        return provenance.foreign_sha256(type(self._catalogue[case.workload]).__module__)

    def _outdated(self, record: Record) -> bool:
        """Whether a case ended at a limit that is another now, or can now be traced to a commit."""
        protocol = record["protocol"]
        before = [protocol[name] for name in ("timeout_s", "memory_limit_bytes")]
        before.append(protocol.get("timeout_factor") is not None)
        sweep = self._sweep
        now = [sweep.timeout_s, sweep.memory_limit_bytes, sweep.scale_timeout]
        limited = record["status"] in {"timeout", "oom"} and before != now
        return limited or (record["git"]["dirty"] is not False and self._git["dirty"] is False)

    def cell_id(self, case: Case) -> str:
        """Workload, axes, ranks and kind of device: the case apart from code and machine."""
        kind = self._devices[case.device, 0].describe().kind
        return digest([case.workload, case.config, case.ranks, kind])

    def _record(self, case: Case, key: str, index: int) -> Record:
        started, limit = datetime.now(UTC), self._limits.current
        result, ended = self._execute(case, limit)
        if ended.cause == "timeout" and (longer := self._limits.longer()):
            started, limit = datetime.now(UTC), longer
            result, ended = self._execute(case, limit)
        if provenance.current_source_sha256() != self._source:
            raise UsageError(
                f"the source was edited while {case.title} ran, which is not recorded; run the "
                "sweep again"
            )
        workload = self._catalogue[case.workload]
        return {
            "schema": SCHEMA,
            "run_id": uuid.uuid4().hex,
            "key": key,
            "cell_id": self.cell_id(case),
            "sweep": self._sweep.name,
            "replicate": case.replicate,
            "status": result["status"],
            "reason": result["reason"],
            "started_at": started.isoformat(timespec="milliseconds"),
            "duration_s": ended.seconds,
            "workload": {
                "name": case.workload,
                "config": case.config,
                "config_sha256": _config_id(case),
                "labels": workload.labels(case.config),
                "inputs": self._inputs[_config_id(case)],
                "source_sha256": self._foreign(case),
                "ranks": case.ranks,
            },
            "facts": result.get("facts"),
            "git": self._git,
            "source_sha256": self._source,
            "host": self._host,
            "devices": self._descriptions(case),
            "software": self._software,
            "environment": self._environment,
            "protocol": asdict(case.protocol)
            | {
                "seed": case.seed,
                "order_index": index,
                "timeout_s": self._sweep.timeout_s,
                "timeout_factor": limit.factor,
                "memory_limit_bytes": self._sweep.memory_limit_bytes,
                "watched_resident_bytes": ended.peak_resident_bytes,
            },
            "metrics": result.get("metrics", {}),
            "telemetry": result.get("telemetry", {}),
            "outcome": result.get("outcome", {}),
            "breakdown": result.get("breakdown", {}),
            "notes": result.get("notes", {}),
        }

    def _execute(self, case: Case, limit: TimeLimit) -> tuple[dict[str, Any], Ended]:
        """Run the case process; return its result, or what became of it in its place."""
        request = {
            "parent": os.getpid(),
            "workload": case.workload,
            "config": case.config,
            "seed": case.seed,
            "device": case.device,
            "store": str(self._store.resolve()),
            "protocol": asdict(case.protocol),
            "timeout_s": limit.seconds,
        }
        start = [str(os.getpid()), str(case.ranks)] if case.ranks > 1 else []
        module = "bench.launch" if start else "bench.case"
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
                    environment=case_environment(case.ranks, self._host["cores"]),
                )
                paths = [folder / f"result.json.{rank}" for rank in range(case.ranks)]
                result = _verdict(ended, paths, limit, self._sweep, self._domains(case))
                return result, ended
        except OSError as error:
            place = error.filename or tempfile.gettempdir()
            raise StorageError(f"a case cannot be started: {place}: {error.strerror}") from None

    def _descriptions(self, case: Case) -> list[dict[str, Any]]:
        """The device of each rank."""
        found = [self._devices[case.device, rank].describe() for rank in range(case.ranks)]
        return [device.as_json() for device in found]

    def _domains(self, case: Case) -> list[object]:
        """Return what each rank's energy counter counts."""
        return energy_domains(self._descriptions(case))


def _config_id(case: Case) -> str:
    return digest([case.workload, case.config])


def case_environment(ranks: int, cores: int) -> dict[str, str]:
    """Return this process's environment, in which a case imports what this process imports.

    The working folder may hold packages of the same names, of a clone perhaps: it is searched only
    if this process searches it, and then last. Several ranks share the cores, and a quota allows
    fewer threads than there are cores, unless the user says how many threads each rank has.
    """
    paths = [str(provenance.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    if Path(sysconfig.get_path("purelib")).resolve() == provenance.ROOT:
        # Searched anyway, and after the standard library.
        paths = paths[1:]
    if os.getcwd() in sys.path:
        paths.append(os.getcwd())
    limited = ranks > 1 or cores < len(os.sched_getaffinity(0))
    threads = {"OMP_NUM_THREADS": str(max(1, cores // ranks))} if limited else {}
    search = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
    return threads | os.environ | search


def _verdict(
    ended: Ended,
    paths: Sequence[Path],
    limit: TimeLimit,
    sweep: Sweep,
    domains: Sequence[object],
) -> dict[str, Any]:
    """Return the result that the ranks of a case left, or why there is none."""
    result = _verdict_of_ranks(ended, paths, limit, sweep, domains)
    if result["status"] == "crash" and ended.memory_kill:
        # A rank, or a process that it waits for: whatever came of that came of the kill.
        return {"status": "oom", "reason": f"{ended.memory_kill} ({result['reason']})"}
    return result


def _verdict_of_ranks(
    ended: Ended,
    paths: Sequence[Path],
    limit: TimeLimit,
    sweep: Sweep,
    domains: Sequence[object],
) -> dict[str, Any]:
    status, reason = _stopped(ended, limit, sweep.memory_limit_bytes)
    if ended.cause:
        return {"status": status, "reason": reason}
    found = [_read_result(path) for path in paths]
    failed = [
        (path.stat().st_mtime_ns, rank, result)
        for rank, (path, result) in enumerate(zip(paths, found, strict=True))
        if isinstance(result, dict) and result["status"] != "ok"
    ]
    if failed and (not reason or len(paths) > 1):
        # The first to fail is why the others then lost it, and the launcher ended them.
        _, rank, result = min(failed, key=lambda each: each[:2])
        who = f"rank {rank}: " if len(paths) > 1 else ""
        return {"status": result["status"], "reason": who + result["reason"]}
    if not reason:
        results = [result for result in found if isinstance(result, dict)]
        if len(results) == len(found):
            return merged(results, domains)
        reason = next(text for text in found if isinstance(text, str))
    last = ended.last_line()
    if status == "crash" and last:
        reason = f"{reason}; it last said: {last}"
    return {"status": status, "reason": reason}


def _read_result(path: Path) -> dict[str, Any] | str:
    """A rank's result, or what is wrong with it."""
    try:
        result = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except FileNotFoundError:
        return "ended without a result"
    except ValueError:
        return "its result is not JSON"
    return result if _is_result(result) else "its result is not of the expected form"


def _stopped(ended: Ended, limit: TimeLimit, memory_limit_bytes: int) -> tuple[str, str]:
    """Return status and reason of a case that did not end in good order; no reason if it did."""
    if ended.cause == "timeout":
        return "timeout", f"no result within {limit}"
    if ended.cause == "memory":
        gib, most = ended.peak_resident_bytes / 2**30, memory_limit_bytes / 2**30
        return "oom", f"resident memory of {gib:.2f} GiB exceeded the limit of {most:g} GiB"
    if ended.status < 0:
        return "crash", f"killed by {ended.signal_name()}"
    return "crash", f"ended with status {ended.status}" if ended.status else ""


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _is_result(result: Any) -> bool:
    if not isinstance(result, dict) or result.get("status") not in STATUSES:
        return False
    if result["status"] != "ok":
        return isinstance(result.get("reason"), str) and bool(result["reason"])
    if not all(isinstance(result.get(part), dict) for part in _PARTS):
        return False
    metrics = result["metrics"]
    return (
        result["facts"].keys() == _FACTS
        and "step_time_s" in metrics
        and all(
            isinstance(value, dict) and value.keys() == METRIC_FIELDS for value in metrics.values()
        )
    )


def _line(case: Case, record: Record) -> str:
    if record["status"] != "ok":
        return f"{record['status']:<11} {case.title}: {record['reason']}"
    time, peak = metric(record, "step_time_s"), metric(record, "peak_resident_bytes")
    figures = [f"{time * 1e3:.{0 if time > 0.01 else 2}f} ms/step"] if time else []
    figures += [f"{peak / 2**20:.0f} MiB peak"] if peak else []
    figures += record["metrics"]["step_time_s"]["flags"]
    return f"{'ok':<11} {case.title}: {', '.join(figures)}"
