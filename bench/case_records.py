"""Records of a sweep's cases on this machine: their names, and what they say beside the result.

A case is known by (cell, replicate, protocol, inputs, code, machine, software).
"""

import uuid
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from bench import provenance
from bench.isolation import Ended
from bench.placement import Placement
from bench.record import SCHEMA, Record
from bench.sweep import Case, Sweep, digest
from bench.time_limits import TimeLimit
from workloads.workload import Catalogue

_VERSIONS = ("python", "torch", "triton", "numpy", "cuda", "rocm")
_DEVICE_IDENTITY = ("kind", "name", "uuid_hash", "driver", "power_cap_w", "partition", "ecc")
_IDENTITY = ("cpu", "cores", "hostname_hash")


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
        self._environment = provenance.environment()
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
                "machine": {name: self.host[name] for name in _IDENTITY},
                "device": {name: device[name] for name in _DEVICE_IDENTITY},
                "software": {name: self._software[name] for name in _VERSIONS},
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
            "git": self.git,
            "source_sha256": self.source,
            "host": self.host,
            "devices": self.placement.descriptions(case),
            "software": self._software,
            "environment": self._environment,
            "protocol": asdict(case.protocol)
            | {
                "seed": case.seed,
                "order_index": index,
                "timeout_s": self._sweep.timeout_s,
                "timeout_factor": limit and limit.factor,
                "memory_limit_bytes": self._sweep.memory_limit_bytes,
                "watched_resident_bytes": ended.peak_resident_bytes,
            },
            "metrics": result.get("metrics", {}),
            "telemetry": result.get("telemetry", {}),
            "outcome": result.get("outcome", {}),
            "breakdown": result.get("breakdown", {}),
            "notes": result.get("notes", {}),
        }


def _config_id(case: Case) -> str:
    return digest([case.workload, case.config])
