"""Repeated traces of recorded cases, which must have the recorded counts."""

from collections.abc import Sequence

from bench.records.agreement import Agreement, agreement
from bench.records.record import Record
from bench.simulation.simulated import METHOD, simulated_record
from bench.simulation.traces import SimulatedCase, simulate
from workloads.catalogue import catalogue


def retrace(records: Sequence[Record], jobs: int = 1) -> list[Agreement]:
    """Trace the cases of simulated records again and return the comparison of each.

    Records of one case on several devices have the same counts, so that a case is traced once.
    Traces in the cache folder are used: they are of this source and this version of torch.

    Args:
        records: Simulated records.
        jobs: Processes that trace.

    Raises:
        WorkloadError: a workload or an axis of a record does not exist any more.
    """
    cases = [_case(record) for record in records]
    distinct = list(dict.fromkeys(cases))
    repeated = {
        case: simulated_record(case, costs)
        for case, costs in zip(distinct, simulate(distinct, jobs), strict=True)
    }
    return [
        agreement(record, repeated[case], catalogue()[case.workload].title(case.config), METHOD)
        for record, case in zip(records, cases, strict=True)
    ]


def _case(record: Record) -> SimulatedCase:
    """Return the case of a record."""
    workload = catalogue()[record.workload.name]
    config = workload.configure(record.workload.config)
    return SimulatedCase(
        workload.name, config, record.workload.ranks // workload.context_ranks(config)
    )
