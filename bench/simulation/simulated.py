"""Metrics and record of a simulated case.

Nothing is measured: figures are counted in a trace of shapes. They have the names of the measured
metrics of the same meaning, with a method of their own, so that tables, figures, gates and exports
take them. Predicted times and energies have names of their own.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from bench.probes.counts import values_of_trace
from bench.records import provenance
from bench.records.metrics import Value, Values, as_json, missing
from bench.records.origin import Origin
from bench.records.record import CaseResult, Record, RecordedDevice, RecordedProtocol
from bench.run.case_records import new_record
from bench.run.sweep import digest
from bench.simulation.traces import SimulatedCase
from refsys.costs.trace import Trace
from workloads.catalogue import catalogue

METHOD = "traced with shapes alone"
# Name of the sweep in the records, and of the device of a case that is simulated for none.
SWEEP = "simulation"
UNNAMED = RecordedDevice(vendor="none", name="simulated", kind="cpu")
_PROTOCOL = RecordedProtocol(
    seed=0,
    order_index=0,
    warmup_steps=None,
    timed_steps=0,
    counts=True,
    energy_s=None,
    timeout_s=None,
    memory_limit_bytes=None,
    watched_resident_bytes=None,
    harness="foldperf simulate",
)


def simulated_values(trace: Trace) -> tuple[Values, dict[str, dict[str, int]]]:
    """Return the counts of a trace as metrics of one rank, and their breakdown.

    The breakdown has those of measured records, and FLOPs by operator and dtype, launches by
    kernel, bytes, calls and messages of collectives by operator.
    """
    values, breakdown = values_of_trace(trace, METHOD)
    values["step_time_s"] = missing("nothing is measured: the case is simulated", METHOD)
    for name in [name for name in values if name.startswith("peak_tracked_bytes")]:
        values[name.replace("peak_tracked", "predicted_peak")] = values[name]
    for phase, peak in trace.phase_peaks.items():
        values[f"predicted_phase_peak_bytes.{phase}"] = _counted(peak.nbytes)
    values["kernel_launches"] = _counted(trace.total("launches"))
    values["exponentials"] = _counted(trace.total("exponentials"))
    calls: Counter[str] = Counter()
    nbytes: Counter[str] = Counter()
    messages: Counter[str] = Counter()
    for key, total in trace.communication.items():
        name = key.operator or key.kind
        calls[name] += total.calls
        nbytes[name] += total.payload_bytes
        messages[name] += total.messages
    values["collective_calls"] = _counted(calls.total())
    values["collective_bytes"] = _counted(nbytes.total())
    values["collective_messages"] = _counted(messages.total())
    flops: Counter[str] = Counter()
    for origin, cost in trace.costs.items():
        if cost.flops:
            flops[f"{origin.operator} {origin.dtype}"] += cost.flops
    kernels: Counter[str] = Counter()
    for (_phase, kernel), count in trace.kernels.items():
        kernels[kernel] += count
    more = {
        "flops_by_operator": flops,
        "launches_by_kernel": kernels,
        "collective_bytes": nbytes,
        "collective_calls": calls,
        "collective_messages": messages,
    }
    return values, breakdown | {name: dict(sorted(table.items())) for name, table in more.items()}


def simulated_record(
    case: SimulatedCase,
    trace: Trace,
    *,
    device: RecordedDevice = UNNAMED,
    predicted: Values | None = None,
    notes: Mapping[str, Any] | None = None,
    origin: Origin | None = None,
    started: datetime | None = None,
    seconds: float = 0.0,
) -> Record:
    """Return the record of a simulated case; its identity follows from its content.

    Args:
        case: The case.
        trace: Trace of its first rank.
        device: Device that it is simulated for; its name says that it is simulated.
        predicted: Further metrics: predicted times and energies.
        notes: Remarks on those.
        origin: Source, machine and software; those of this process if None.
        started: Start of the simulation; now if None.
        seconds: Duration of the simulation.
    """
    workload = catalogue()[case.workload]
    values, breakdown = simulated_values(trace)
    metrics = as_json(values | (predicted or {}))
    facts = workload.static_costs(case.config)
    result = CaseResult.from_dict(
        {
            "status": "ok",
            "metrics": metrics,
            "facts": facts.as_json(),
            "breakdown": breakdown,
            "notes": {"phases": list(trace.phase_peaks), "method": METHOD, **(notes or {})},
        }
    )
    origin = origin or provenance.origin()
    axes = workload.values(case.config)
    cell = digest([case.workload, axes, case.ranks, SWEEP, device.name])
    return new_record(
        sweep=SWEEP,
        key=digest([cell, origin.source_sha256, metrics]),
        cell_id=cell,
        replicate=0,
        started=started or datetime.now(UTC),
        seconds=seconds,
        workload=workload,
        config=case.config,
        inputs={},
        foreign=provenance.foreign_sha256(type(workload).__module__),
        ranks=case.ranks,
        devices=(device,),
        origin=origin,
        protocol=_PROTOCOL,
        result=result,
    )


def _counted(value: int) -> Value:
    return Value(value, METHOD, quality="counted")
