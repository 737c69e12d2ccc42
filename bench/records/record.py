"""Record of one execution of one case: every metric, and all that identifies the case.

``record.schema.json`` states the same as a JSON Schema, with the ranges and patterns that types do
not say. `bench.records.reading` reads files of records, `bench.records.record_file` writes them.
This module needs the standard library alone, so that anything may import it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from bench.records.origin import GitState, Host
from bench.records.structure import from_json, to_json

SCHEMA = "foldperf.record/2"

# A record as JSON has it.
RecordJson = dict[str, Any]
Scalar = str | float | bool
Status = Literal["ok", "oom", "timeout", "crash", "unsupported", "blocked"]
STATUSES: tuple[Status, ...] = get_args(Status)
Better = Literal["lower", "higher", "neither"]
Scope = Literal["process", "device", "program"]
Quality = Literal["measured", "counted", "degraded", "missing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """Value of one metric with its method and uncertainty, or the reason for having none.

    Attributes:
        value: Figure in `unit`; None if it could not be had.
        unit: Unit of the figure.
        better: Direction of an improvement.
        scope: Owner of the quantity: a process, a device or the whole program.
        method: Method of measurement in a few words.
        reason: Why there is no figure; None if there is one.
        n: Number of samples.
        ci: Interval of the figure (low, high, coverage), where the samples allow one.
        samples: Samples in order.
        quality: ``counted`` is exact, without noise.
        flags: Remarks for a reader.
        ranks: Figure of each rank, where there are several.
    """

    value: float | None
    unit: str
    better: Better
    scope: Scope
    method: str
    reason: str | None
    n: int
    ci: tuple[float, float, float] | None
    samples: tuple[float, ...]
    quality: Quality
    flags: tuple[str, ...]
    ranks: tuple[float | None, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedCosts:
    """Static costs of a case; the attributes are those of the workload's `facts`."""

    parameters: int
    components: Mapping[str, int]
    forward_flops: int
    forward_flops_by_component: Mapping[str, int]
    step_flops: int
    arithmetic: str
    minimum_bytes: int
    exponentials: int = 0
    instructions: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseResult:
    """Parts of a record that the measuring process knows.

    Attributes:
        status: ``ok`` if the case was measured, else how it ended.
        reason: Why the case was not measured; None if it was.
        facts: Static costs; None if the case was not measured.
        metrics: Metrics by name; a part of a metric is ``<metric>.<part>``.
        telemetry: Sensor readings around and between the timed steps, in order.
        outcome: Results of the workload that are not measurements, such as its loss.
        breakdown: Counts by name, such as bytes by module.
        notes: Remarks of the workload; ``phases`` is the order of its phases.
    """

    status: Status
    reason: str | None = None
    facts: RecordedCosts | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    telemetry: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    outcome: Mapping[str, float | None] = field(default_factory=dict)
    breakdown: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """Return the result in a JSON object; parts that it lacks are empty.

        Raises:
            ValueError: A part has another type.
        """
        empty = to_json(cls(status="ok"))
        del empty["status"]
        result: Self = from_json(cls, empty | dict(table), "result")
        return result


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedWorkload:
    """Workload of a case.

    Attributes:
        name: Name in the catalogue.
        config: Every axis.
        config_sha256: Hash of name and axes, 20 hexadecimal digits.
        labels: Values that views group by: tokens, series, variant, synthetic.
        inputs: Prepared inputs, by the name of their content.
        source_sha256: Hash of another package's sources; None for a workload of this project.
        ranks: Number of processes that worked on the case.
    """

    name: str
    config: Mapping[str, Scalar]
    config_sha256: str
    labels: Mapping[str, Scalar]
    inputs: Mapping[str, str]
    source_sha256: str | None
    ranks: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedDevice:
    """Device of one rank; the attributes are those of `bench.devices.Description`."""

    vendor: Literal["none", "nvidia", "amd"]
    name: str
    kind: Literal["cpu", "cuda"]
    memory_bytes: int | None = None
    uuid_hash: str | None = None
    driver: str | None = None
    vbios: str | None = None
    power_cap_w: float | None = None
    partition: str | None = None
    ecc: bool | None = None
    energy_domain: str | None = None
    energy_scope: Literal["device", "module"] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedProtocol:
    """Way in which a case was measured; None is unknown to the harness.

    Attributes:
        seed: Seed of everything random in the case.
        order_index: Position in the order of the sweep.
        warmup_steps: Steps before the timed ones.
        timed_steps: Timed steps.
        counts: True if the counting pass ran.
        energy_s: Shortest energy window. Unit: s.
        timeout_s: Time limit of the sweep. Unit: s.
        timeout_factor: Factor by which the limit was longer on this machine; None if the limit was
            taken literally.
        memory_limit_bytes: Most resident memory allowed. Unit: B.
        watched_resident_bytes: Most resident memory that the memory guard saw. Unit: B.
        harness: Name and version of another harness that measured; None for this project.
    """

    seed: int
    order_index: int
    warmup_steps: int | None
    timed_steps: int
    counts: bool
    energy_s: float | None
    timeout_s: float | None
    timeout_factor: float | None = None
    memory_limit_bytes: int | None
    watched_resident_bytes: int | None
    harness: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One execution of one case.

    Attributes:
        run_id: Identity of the execution, 32 hexadecimal digits.
        key: Hash of cell, replicate, protocol, inputs, code, machine and software.
        cell_id: Hash of workload, axes, ranks and kind of device.
        sweep: Name of the sweep.
        replicate: Number among the repetitions of the case.
        status: See `CaseResult`, as for `reason`, `facts`, `metrics`, `telemetry`, `outcome`,
            `breakdown` and `notes`.
        started_at: Start of the case, ISO 8601 with time zone.
        duration_s: Duration of the case, start of its process included. Unit: s.
        workload: Workload and axes.
        git: See `bench.records.origin.Origin`, as for `source_sha256`, `host`, `software` and
            `environment`.
        devices: Device of each rank.
        protocol: Way in which the case was measured.
    """

    run_id: str
    key: str
    cell_id: str
    sweep: str
    replicate: int
    status: Status
    reason: str | None
    started_at: str
    duration_s: float
    workload: RecordedWorkload
    facts: RecordedCosts | None
    git: GitState
    source_sha256: str
    host: Host
    devices: tuple[RecordedDevice, ...]
    software: Mapping[str, str | None]
    environment: Mapping[str, str]
    protocol: RecordedProtocol
    metrics: Mapping[str, Metric]
    telemetry: Mapping[str, tuple[float, ...]]
    outcome: Mapping[str, float | None]
    breakdown: Mapping[str, Mapping[str, int]]
    notes: Mapping[str, Any]

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """Return the record in a JSON object of the current schema.

        Raises:
            ValueError: The object is of another schema, or a field is missing, unknown or of
                another type; the message begins with the path of the field.
        """
        if table.get("schema") != SCHEMA:
            raise ValueError(f"schema: {str(table.get('schema'))[:80]!r} is not {SCHEMA}")
        record: Self = from_json(cls, {n: v for n, v in table.items() if n != "schema"})
        return record

    def as_dict(self) -> RecordJson:
        """Return the record as a JSON object of `SCHEMA`, in plain dictionaries and lists."""
        return {"schema": SCHEMA} | to_json(self)

    def value(self, metric: str) -> float | None:
        """Return the figure of a metric, or None if the record has none."""
        entry = self.metrics.get(metric)
        return None if entry is None or entry.value is None else float(entry.value)
