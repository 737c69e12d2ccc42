"""Pairs of predicted terms and measured time, from records."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from bench.check_device.operators import configuration_of
from bench.prediction.machines import is_rate_record, recorded_machine
from bench.records.record import Record
from refsys.costs.achievable import assumed
from refsys.costs.machines import Machine
from refsys.costs.time_model import PhaseTerms, network_of, phase_terms
from refsys.costs.trace import Trace
from workloads.catalogue import catalogue
from workloads.errors import WorkloadError
from workloads.predicted_costs import predicted_costs

# Costs of the case of a record.
Tracer = Callable[[Record], Trace]


@dataclass(frozen=True, slots=True)
class Observation:
    """Measured time of phases that follow one another, beside their predicted terms.

    Attributes:
        phases: Predicted terms of each phase.
        seconds: Measured time of all of them.
    """

    phases: tuple[PhaseTerms, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Pair:
    """Prediction and measurement of one record.

    Attributes:
        run_id: Identifier of the record.
        machine: Rates that the terms follow from.
        observations: Measured phases; the whole step where phases were not timed.
    """

    run_id: str
    machine: Machine
    observations: tuple[Observation, ...]


def pairs_of(
    records: Sequence[Record], tracer: Tracer | None = None
) -> tuple[list[Pair], dict[str, str]]:
    """Return the pairs that records give, and the reason for which others give none, by record.

    Args:
        records: Records, those of rates of a device among them.
        tracer: Function that returns the costs of a record's case; traces the case if None.
    """
    tracer = tracer or traced
    pairs, reasons = [], {}
    for record in records:
        if is_rate_record(record):
            continue
        try:
            pairs.append(pair_of(record, recorded_machine(record, records), tracer))
        except WorkloadError as error:
            reasons[record.run_id] = str(error)
    return pairs, reasons


def pair_of(record: Record, machine: Machine, tracer: Tracer) -> Pair:
    """Return the pair of a record.

    Raises:
        WorkloadError: it has no measured time, or no prediction.
    """
    if record.status != "ok" or not _measured(record, "step_time_s"):
        raise WorkloadError("no step time was measured")
    trace = tracer(record)
    if not trace.total("flops"):
        raise WorkloadError("the case multiplies no matrices")
    fractions = assumed()
    device_s = _measured(record, "device_time_s")
    terms, unknown = phase_terms(
        trace, machine, network_of(machine, fractions), fractions, graph=device_s is not None
    )
    if unknown:
        raise WorkloadError(f"the prediction has no rate of {', '.join(unknown)}")
    return Pair(record.run_id, machine, _observations(record, terms, device_s))


def traced(record: Record) -> Trace:
    """Return the costs of a record's case from shapes alone.

    Raises:
        WorkloadError: the workload does not exist, or has other axes by now.
    """
    workload = catalogue()[record.workload.name]
    config = configuration_of(record)
    ranks = record.workload.ranks // workload.context_ranks(config)
    return _costs(record.workload.name, config, max(1, ranks))


@cache
def _costs(name: str, config: object, ranks: int) -> Trace:
    return predicted_costs(catalogue()[name], config, ranks=ranks)


def _measured(record: Record, name: str) -> float | None:
    metric = record.metrics.get(name)
    return metric.value if metric and metric.quality in {"measured", "degraded"} else None


def _observations(
    record: Record, terms: dict[str, PhaseTerms], device_s: float | None
) -> tuple[Observation, ...]:
    """Return the phases that were timed, or the whole step if any was not.

    A phase that the prediction gives no time to is left out.
    """
    times = {phase: _measured(record, f"phase_time_s.{phase}") for phase in terms}
    if device_s is None and all(seconds is not None for seconds in times.values()):
        return tuple(
            Observation((terms[phase],), seconds)
            for phase, seconds in times.items()
            if seconds and _has_time(terms[phase])
        )
    seconds = device_s or _measured(record, "step_time_s")
    assert seconds is not None, "checked by the caller"
    return (Observation(tuple(terms.values()), seconds),)


def _has_time(terms: PhaseTerms) -> bool:
    return bool(terms.device or terms.host_s or terms.hideable_s or terms.exposed_s)


def kinds_of(pairs: Iterable[Pair]) -> list[str]:
    """Return the kinds of operators that have device time in any pair, sorted."""
    return sorted(
        {
            part.kind
            for pair in pairs
            for observation in pair.observations
            for phase in observation.phases
            for part in phase.device
        }
    )
