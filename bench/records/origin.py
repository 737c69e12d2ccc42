"""Origin of a measurement: commit, source, machine and software. `provenance` determines it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.records.structure import to_json


@dataclass(frozen=True, kw_only=True, slots=True)
class GitState:
    """Commit of a source tree.

    Attributes:
        sha: Full hash; None if unknown.
        dirty: True if the tree differs from the commit outside ``results``.
        diff_sha256: Hash of the difference; None if there is none.
        commit_time: Time of the commit, ISO 8601 with its time zone.
        reason: Message of git where it refused to read the repository.
    """

    sha: str | None = None
    dirty: bool | None = None
    diff_sha256: str | None = None
    commit_time: str | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """Machine as far as the measuring process could use it.

    Attributes:
        os: Name and release of the operating system.
        cpu: Name of the processor.
        cores: Cores that the process could keep busy, by affinity and quota.
        memory_bytes: Memory that the process could have. Unit: B.
        cgroup_cores: Quota of the control group, where there is one.
        cgroup_memory_bytes: Limit of the control group, where there is one. Unit: B.
        hostname_hash: Hash of the machine's name.
        container: True inside a container.
    """

    os: str
    cpu: str
    cores: int
    memory_bytes: int
    cgroup_cores: float | None = None
    cgroup_memory_bytes: int | None = None
    hostname_hash: str
    container: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Source, machine and software of a measurement.

    Attributes:
        git: Commit of the source.
        source_sha256: Hash of the source files that can change a measurement.
        host: Machine.
        software: Versions by package; None if absent.
        environment: Environment variables that change how torch computes.
    """

    git: GitState
    source_sha256: str
    host: Host
    software: Mapping[str, str | None]
    environment: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        fields: dict[str, Any] = to_json(self)
        return fields
