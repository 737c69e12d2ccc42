"""Record of a frontier's cell: longest sequences as metrics, beside the records of its runs."""

import uuid
from dataclasses import asdict, replace

from bench.frontier.cells import TOKENS, Cell, Space
from bench.frontier.memory import Memory
from bench.frontier.runs import CaseRuns
from bench.records.metrics import Value, Values, as_json, missing
from bench.records.record import CaseResult, Record
from bench.records.record_file import RECORDS, RecordFile
from bench.records.structure import to_json
from bench.run.case_records import machine_identity
from bench.run.sweep import digest

# Field of the configuration that stands beside the axes: the limit is a part of the question.
MEMORY_LIMIT = "memory_limit_gib"


def cell_record(cell: Cell, space: Space, memory: Memory) -> Record:
    """Return the record of a cell whose cases were run.

    Its configuration is that of the shortest case, so that it is the same for every commit.
    Machine, source and software are those of its runs.
    """
    first = next(iter(cell.runs.values())).record
    config = space.config(cell.variant, cell.ranks, cell.tile)
    axes = space.workload.values(config) | {TOKENS: cell.tile, MEMORY_LIMIT: memory.gib}
    labels = space.workload.labels(config)
    variant = ", ".join(filter(None, [str(labels.get("variant", "")), f"{memory.gib:g} GiB"]))
    cell_id = digest(["frontier", space.workload.name, axes, cell.ranks, memory.kind])
    machine = machine_identity(first.host, first.devices[0], first.software)
    result = _result(cell, space)
    return replace(
        first,
        run_id=uuid.uuid4().hex,
        key=digest([cell_id, first.source_sha256, machine, dict(first.environment)]),
        cell_id=cell_id,
        status=result.status,
        reason=result.reason,
        duration_s=sum(run.record.duration_s for run in cell.runs.values()),
        workload=replace(
            first.workload,
            config=axes,
            config_sha256=digest([space.workload.name, axes]),
            labels=labels | {"variant": variant},
        ),
        facts=result.facts,
        protocol=replace(
            first.protocol,
            order_index=0,
            memory_limit_bytes=memory.nbytes,
            watched_resident_bytes=None,
        ),
        metrics=result.metrics,
        telemetry={},
        outcome={},
        breakdown={},
        notes={"frontier": cell.as_json()},
    )


def _result(cell: Cell, space: Space) -> CaseResult:
    """Return status and metrics of a cell; a fault of the shortest case is that of the cell."""
    if fault := cell.fault:
        return CaseResult(status=cell.runs[1].record.status, reason=f"the shortest case: {fault}")
    shortest = cell.runs.get(1)
    if shortest is not None and shortest.record.facts is not None:
        facts = to_json(shortest.record.facts)
    else:
        costs = space.workload.static_costs(space.config(cell.variant, cell.ranks, cell.tile))
        facts = asdict(costs) | {"notes": list(costs.notes)}
    return CaseResult.from_dict(
        {"status": "ok", "facts": facts, "metrics": as_json(_metrics(cell))}
    )


def _metrics(cell: Cell) -> Values:
    longest = cell.tokens(cell.measured)
    assert longest is not None
    assert cell.measured
    flags = [] if cell.measured.settled else ["the runs ended before the edge was found"]
    flags += ["no longer case was allowed"] if cell.measured.failing is None else []
    tile = f"multiples of {cell.tile} tokens"
    if cell.predicted is None:
        predicted = missing(cell.unpredicted)
    else:
        method = f"traced peak and baseline; {tile}"
        predicted = Value(cell.tokens(cell.predicted), method, quality="counted")
    return {
        "step_time_s": missing("a frontier times no step of its own"),
        "longest_tokens": Value(longest, f"isolated runs; {tile}", flags=tuple(flags)),
        "predicted_longest_tokens": predicted,
    }


def store_cell(record: Record, runs: CaseRuns) -> None:
    """Append the record of a cell, in place of an earlier one of the same source and machine.

    Raises:
        StorageError: it cannot be written.
    """
    file = RecordFile(runs.folder / RECORDS)
    with file.locked():
        file.forget(lambda earlier: earlier.key == record.key)
        file.append(record)
