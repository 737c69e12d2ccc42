"""Records of cases that are measured within the process of a device check."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.devices import Device
from bench.records import provenance
from bench.records.metrics import Values, as_json
from bench.records.record import CaseResult, Record, RecordedProtocol
from bench.records.record_file import RecordFile
from bench.run.case_records import machine_identity, new_record
from bench.run.placement import recorded_device
from bench.run.sweep import digest
from workloads.catalogue import catalogue
from workloads.workload import Axes, Config

SWEEP = "check-device"
# Default protocol of a case: stages have time limits, cases have none.
_PROTOCOL: dict[str, Any] = {
    "warmup_steps": 3,
    "timed_steps": 0,
    "counts": False,
    "energy_s": 0.0,
    "timeout_s": 0.0,
    "memory_limit_bytes": 0,
    "watched_resident_bytes": 0,
}


@dataclass(frozen=True, slots=True)
class Measured:
    """Result of a case.

    Attributes:
        metrics: Metrics as records hold them.
        facts: As records hold them; None where the case did not run.
        status: Status of the record.
        reason: Why the case did not run; None if it did.
        telemetry: As records hold it.
        outcome: Likewise.
        breakdown: Likewise.
        notes: Likewise.
        software: Versions, where the case ran in another interpreter.
        protocol: Fields of the record's protocol that differ from `_PROTOCOL`.
    """

    metrics: Mapping[str, Any]
    facts: Mapping[str, Any] | None
    status: str = "ok"
    reason: str | None = None
    telemetry: Mapping[str, Any] = field(default_factory=dict)
    outcome: Mapping[str, Any] = field(default_factory=dict)
    breakdown: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    software: Mapping[str, Any] | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Values, facts: Mapping[str, Any], **more: Any) -> "Measured":
        """Return the result of a case that ran, from metrics."""
        return cls(as_json(values), facts, **more)

    def result(self) -> CaseResult:
        """Return the parts of the record that are the case's result.

        Raises:
            ValueError: A part is of another type than records have.
        """
        parts = {field.name: getattr(self, field.name) for field in fields(CaseResult)}
        return CaseResult.from_dict(parts)


class Recorder:
    """Recorder of the cases: it appends their records and finds existing ones."""

    def __init__(self, folder: Path, device: Device, seed: int = 0) -> None:
        """Identify the machine.

        Args:
            folder: Folder of the file of records.
            device: Device of all cases.
            seed: Seed of everything random.
        """
        self._file = RecordFile(folder / "records.jsonl")
        self._device = recorded_device(device)
        self._origin = provenance.origin()
        self._seed = seed
        self._records: dict[str, Record] = {}

    def load(self) -> None:
        """Read the records of earlier processes; called once the file is locked."""
        self._records = {record.key: record for record in self._file.records()}

    @property
    def file(self) -> RecordFile:
        """Return the file of records."""
        return self._file

    @property
    def identity(self) -> str:
        """Hash of code, machine, device and software."""
        origin = self._origin
        identity = machine_identity(origin.host, self._device, origin.software)
        return digest([origin.source_sha256, identity, dict(origin.environment)])

    def key(self, stage: str, workload: str, config: Config, salt: str = "") -> str:
        """Return the identity of a case's record."""
        return digest([self.identity, self._seed, stage, workload, axes_of(workload, config), salt])

    def get(self, key: str) -> Record | None:
        """Return the record of a key, None if there is none."""
        return self._records.get(key)

    def append(
        self,
        stage: str,
        workload: str,
        config: Config,
        measured: Measured,
        started: datetime,
        salt: str = "",
    ) -> Record:
        """Append the record of a case and flush it to disk.

        Raises:
            StorageError: it cannot be written; earlier records are intact.
        """
        protocol = _PROTOCOL | dict(measured.protocol)
        origin = self._origin
        if measured.software is not None:
            origin = replace(origin, software=dict(measured.software))
        record = new_record(
            sweep=f"{SWEEP}.{stage}",
            key=self.key(stage, workload, config, salt),
            cell_id=digest([workload, axes_of(workload, config), 1, self._device.kind]),
            replicate=0,
            started=started,
            seconds=max(0.0, (datetime.now(UTC) - started).total_seconds()),
            workload=catalogue()[workload],
            config=config,
            inputs={},
            foreign=None,
            ranks=1,
            devices=[self._device],
            origin=origin,
            protocol=RecordedProtocol(seed=self._seed, order_index=len(self._records), **protocol),
            result=measured.result(),
        )
        self._file.append(record)
        self._records[record.key] = record
        return record


def axes_of(workload: str, config: Config) -> Axes:
    """Return the value of each axis of a case of a workload of that name."""
    return catalogue()[workload].values(config)
