"""Records of a sweep's cases on this machine: their names, and what they say beside the result.

A case is known by (cell, replicate, protocol, inputs, code, machine, software).
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.records import provenance
from bench.records.record import SCHEMA, Record
from bench.run.environment import threads_variable
from bench.run.isolation import Ended
from bench.run.placement import Placement
from bench.run.sweep import Case, Sweep, digest
from bench.run.time_limits import TimeLimit
from workloads.workload import Catalogue, Config, Workload

_VERSIONS = ("python", "torch", "triton", "numpy", "cuda", "rocm")
_DEVICE_IDENTITY = ("kind", "name", "uuid_hash", "driver", "power_cap_w", "partition", "ecc")
_IDENTITY = ("cpu", "cores", "hostname_hash")
_PARTS = ("metrics", "telemetry", "outcome", "breakdown", "notes")


class CaseRecords:
    """Names and records of cases, of the machine and source as they were at the beginning.

    Attributes:
        git: Commit of the source, as records have it.
        host: This host, as records have it.
        source: Hash of the source that can change a measurement.
        placement: Devices of the cases.
    """

    def __init__(self, sweep: Sweep, store: Path, catalogue: Catalogue) -> None:
        """Look at the machine, the source and the cases' inputs.

        Raises:
            UsageError: the device that the cases want is not there.
            WorkloadError: inputs of a case are not there.
        """
        self._sweep = sweep
        self._catalogue = catalogue
        self.git = provenance.git_state()
        self.host = provenance.host()
        self.placement = Placement(sweep.cases, catalogue, self.host["cores"])
        self._software = provenance.software()
        self.source = provenance.source_sha256()
        self._environment = threads_variable(sweep.threads) | provenance.environment()
        self._inputs = {
            _config_id(case): catalogue[case.workload].inputs(case.config, store)
            for case in sweep.cases
        }

    def key(self, case: Case) -> str:
        """Return the name that a case's record has, and no other record."""
        foreign = self._foreign(case)
        # Of another package's workload the rest of what is installed may be a part.
        packages = foreign and self._software["packages_sha256"]
        device = self.placement.descriptions(case)[0]
        return digest(
            {
                "cell": self.cell_id(case),
                "replicate": case.replicate,
                "protocol": asdict(case.protocol),
                "seed": case.seed,
                "inputs": self._inputs[_config_id(case)],
                "code": [self.source, foreign, packages],
                **machine_identity(self.host, device, self._software),
                "environment": self._environment,
            }
        )

    def _foreign(self, case: Case) -> str | None:
        return provenance.foreign_sha256(type(self._catalogue[case.workload]).__module__)

    def cell_id(self, case: Case) -> str:
        """Return the name of workload, axes, ranks and kind of device: no code, no machine."""
        kind = self.placement.descriptions(case)[0]["kind"]
        return digest([case.workload, case.config, case.ranks, kind])

    def record(
        self,
        case: Case,
        key: str,
        index: int,
        started: datetime,
        limit: TimeLimit | None,
        result: dict[str, Any],
        ended: Ended,
    ) -> Record:
        """Return the record of a case.

        Args:
            case: The case.
            key: See `key`.
            index: Its number in the sweep's order.
            started: Moment of its start.
            limit: Its time limit; None if it was not started.
            result: Status, reason, and all parts that the measuring process knows.
            ended: End of its process.
        """
        protocol = asdict(case.protocol) | {
            "seed": case.seed,
            "order_index": index,
            "timeout_s": self._sweep.timeout_s,
            "timeout_factor": limit and limit.factor,
            "memory_limit_bytes": self._sweep.memory_limit_bytes,
            "watched_resident_bytes": ended.peak_resident_bytes,
        }
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
            origin={
                "git": self.git,
                "source_sha256": self.source,
                "host": self.host,
                "software": self._software,
                "environment": self._environment,
            },
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
    devices: Sequence[Mapping[str, Any]],
    origin: Mapping[str, Any],
    protocol: Mapping[str, Any],
    result: Mapping[str, Any],
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
        config: Every axis of the workload.
        inputs: Names of the content of its inputs.
        foreign: Hash of another package's workload; None for ours.
        ranks: How many processes worked on it.
        devices: Device of each.
        origin: Commit, source, host, software and environment.
        protocol: How it was measured.
        result: Status and reason, and those of the other parts that are known.
    """
    return {
        "schema": SCHEMA,
        "run_id": uuid.uuid4().hex,
        "key": key,
        "cell_id": cell_id,
        "sweep": sweep,
        "replicate": replicate,
        "status": result["status"],
        "reason": result["reason"],
        "started_at": started.isoformat(timespec="milliseconds"),
        "duration_s": seconds,
        "workload": {
            "name": workload.name,
            "config": config,
            "config_sha256": digest([workload.name, config]),
            "labels": workload.labels(config),
            "inputs": dict(inputs),
            "source_sha256": foreign,
            "ranks": ranks,
        },
        "facts": result.get("facts"),
        **origin,
        "devices": list(devices),
        "protocol": dict(protocol),
        **{part: dict(result.get(part) or {}) for part in _PARTS},
    }


def machine_identity(
    host: Mapping[str, Any], device: Mapping[str, Any], software: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the fields of a machine on which measurements depend."""
    return {
        "machine": {name: host[name] for name in _IDENTITY},
        "device": {name: device[name] for name in _DEVICE_IDENTITY},
        "software": {name: software[name] for name in _VERSIONS},
    }


def _config_id(case: Case) -> str:
    return digest([case.workload, case.config])
