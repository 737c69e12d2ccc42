"""Records of a sweep's cases on this machine: their keys, and their fields beside the result.

A case is known by (cell, replicate, protocol, inputs, code, machine, software).
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.records import provenance
from bench.records.origin import Host, Origin
from bench.records.record import (
    CaseResult,
    Record,
    RecordedDevice,
    RecordedProtocol,
    RecordedWorkload,
)
from bench.run.environment import threads_variable
from bench.run.isolation import Ended
from bench.run.placement import Placement
from bench.run.sweep import Case, Sweep, digest
from bench.run.time_limits import TimeLimit
from workloads.workload import Catalogue, Config, Workload

_VERSIONS = ("python", "torch", "triton", "numpy", "cuda", "rocm")
_DEVICE_IDENTITY = ("kind", "name", "uuid_hash", "driver", "power_cap_w", "partition", "ecc")
_HOST_IDENTITY = ("cpu", "cores", "hostname_hash")


class CaseRecords:
    """Names and records of cases, of the machine and source as they were at the beginning.

    Attributes:
        origin: Source, machine and software.
        placement: Devices of the cases.
    """

    def __init__(self, sweep: Sweep, store: Path, catalogue: Catalogue) -> None:
        """Identify the machine, the source and the cases' inputs.

        Raises:
            UsageError: the device that the cases want is not there.
            WorkloadError: inputs of a case are not there.
        """
        self._sweep = sweep
        self._catalogue = catalogue
        origin = provenance.origin()
        chosen = threads_variable(sweep.threads) | dict(sweep.environment)
        environment = chosen | dict(origin.environment)
        self.origin = replace(origin, environment=environment)
        self.placement = Placement(sweep.cases, catalogue, self.origin.host.cores)
        self._inputs = {
            _config_id(case): catalogue[case.workload].inputs(case.config, store)
            for case in sweep.cases
        }

    def key(self, case: Case) -> str:
        """Return the key of a case's record, which no other record has."""
        origin, foreign = self.origin, self._foreign(case)
        # Any installed package may be a part of another package's workload.
        packages = foreign and origin.software["packages_sha256"]
        device = self.placement.descriptions(case)[0]
        return digest(
            {
                "cell": self.cell_id(case),
                "replicate": case.replicate,
                "protocol": asdict(case.protocol),
                "seed": case.seed,
                "inputs": self._inputs[_config_id(case)],
                "code": [origin.source_sha256, foreign, packages],
                **machine_identity(origin.host, device, origin.software),
                "environment": dict(origin.environment),
            }
        )

    def _foreign(self, case: Case) -> str | None:
        return provenance.foreign_sha256(type(self._catalogue[case.workload]).__module__)

    def cell_id(self, case: Case) -> str:
        """Return the hash of workload, axes, ranks and kind of device, without code and machine."""
        kind = self.placement.descriptions(case)[0].kind
        return digest([case.workload, case.axes, case.ranks, kind])

    def record(
        self,
        case: Case,
        key: str,
        index: int,
        started: datetime,
        limit: TimeLimit | None,
        result: CaseResult,
        ended: Ended,
    ) -> Record:
        """Return the record of a case.

        Args:
            case: The case.
            key: See `key`.
            index: Its number in the sweep's order.
            started: Moment of its start.
            limit: Its time limit; None if it was not started.
            result: Result of the case.
            ended: End of its process.
        """
        protocol = RecordedProtocol(
            **asdict(case.protocol),
            seed=case.seed,
            order_index=index,
            timeout_s=self._sweep.timeout_s,
            timeout_factor=None if limit is None else limit.factor,
            memory_limit_bytes=self._sweep.memory_limit_bytes,
            watched_resident_bytes=ended.peak_resident_bytes,
        )
        return new_record(
            sweep=self._sweep.name,
            key=key,
            cell_id=self.cell_id(case),
            replicate=case.replicate,
            started=started,
            seconds=ended.seconds,
            workload=self._catalogue[case.workload],
            config=case.config,
            inputs=self._inputs[_config_id(case)],
            foreign=self._foreign(case),
            ranks=case.ranks,
            devices=self.placement.descriptions(case),
            origin=self.origin,
            protocol=protocol,
            result=result,
        )


def new_record(
    *,
    sweep: str,
    key: str,
    cell_id: str,
    replicate: int,
    started: datetime,
    seconds: float,
    workload: Workload,
    config: Config,
    inputs: Mapping[str, str],
    foreign: str | None,
    ranks: int,
    devices: Sequence[RecordedDevice],
    origin: Origin,
    protocol: RecordedProtocol,
    result: CaseResult,
) -> Record:
    """Return a record with a new identity.

    Args:
        sweep: Name of the sweep.
        key: Name of the record among all.
        cell_id: Name of workload, axes, ranks and kind of device.
        replicate: Number among its like.
        started: Moment at which the case began.
        seconds: How long it took.
        workload: Its workload.
        config: Configuration of the case.
        inputs: Names of the content of its inputs.
        foreign: Hash of another package's workload; None for ours.
        ranks: How many processes worked on it.
        devices: Device of each.
        origin: Source, machine and software.
        protocol: Way in which the case was measured.
        result: Result of the case.
    """
    axes = workload.values(config)
    return Record(
        run_id=uuid.uuid4().hex,
        key=key,
        cell_id=cell_id,
        sweep=sweep,
        replicate=replicate,
        started_at=started.isoformat(timespec="milliseconds"),
        duration_s=seconds,
        workload=RecordedWorkload(
            name=workload.name,
            config=axes,
            config_sha256=digest([workload.name, axes]),
            labels=workload.labels(config),
            inputs=dict(inputs),
            source_sha256=foreign,
            ranks=ranks,
        ),
        devices=tuple(devices),
        protocol=protocol,
        **_fields(origin),
        **_fields(result),
    )


def _fields(part: Origin | CaseResult) -> dict[str, Any]:
    """Return the fields of a part of a record, which are fields of the record."""
    return {field.name: getattr(part, field.name) for field in fields(part)}


def machine_identity(
    host: Host, device: RecordedDevice, software: Mapping[str, str | None]
) -> dict[str, dict[str, Any]]:
    """Return the fields of a machine on which measurements depend."""
    return {
        "machine": {name: getattr(host, name) for name in _HOST_IDENTITY},
        "device": {name: getattr(device, name) for name in _DEVICE_IDENTITY},
        "software": {name: software[name] for name in _VERSIONS},
    }


def _config_id(case: Case) -> str:
    return digest([case.workload, case.axes])
