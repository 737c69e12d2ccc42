"""Traces of cases, remembered in the cache folder by content.

The name of a trace is the hash of the case, the number of data ranks, the sources of the project
and of the workload, and the version of torch.
"""

import functools
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from bench.records import provenance
from bench.run.sweep import digest
from bench.simulation.stored import from_bytes, to_bytes
from refsys.costs.trace import Trace
from refsys.errors import HomeError
from refsys.files import write_atomically
from refsys.home import home
from refsys.processes import ProcessPool
from workloads.catalogue import catalogue
from workloads.predicted_costs import cost_sources, predicted_costs
from workloads.workload import Config, StaticCosts, Workload


class SimulatedCase(NamedTuple):
    """Case to simulate.

    Attributes:
        workload: Name of the workload.
        config: Its configuration.
        data_ranks: Ranks, or groups of context ranks, that average their gradients.
    """

    workload: str
    config: Config
    data_ranks: int = 1

    @property
    def ranks(self) -> int:
        """Number of all ranks."""
        return self.data_ranks * catalogue()[self.workload].context_ranks(self.config)

    @property
    def examples(self) -> int:
        """Examples of a step of one rank, or of one group of context ranks."""
        return catalogue()[self.workload].examples(self.config)

    @property
    def exchange_chunks(self) -> int:
        """Parts in which context ranks exchange channels."""
        return catalogue()[self.workload].exchange_chunks(self.config)


def trace_of(case: SimulatedCase, *, remember: bool = True) -> Trace:
    """Return the trace of a case's first rank.

    Args:
        case: Case to simulate.
        remember: Whether to read and write the cache folder.

    Raises:
        WorkloadError: the workload runs on one rank alone, or cannot be traced.
    """
    workload = catalogue()[case.workload]
    path = _path(workload, case) if remember else None
    if path is not None:
        # A damaged file is replaced.
        with suppress(OSError, ValueError):
            return from_bytes(path.read_bytes())
    torch.set_num_threads(1)
    trace = predicted_costs(workload, case.config, ranks=case.data_ranks)
    # The stored form has an order of its own.
    content = to_bytes(trace)
    if path is not None:
        with suppress(OSError):
            write_atomically(path, content)
    return from_bytes(content)


def facts_of(case: SimulatedCase) -> StaticCosts:
    """Return the static costs of a case."""
    torch.set_num_threads(1)
    return catalogue()[case.workload].static_costs(case.config)


class Simulated(NamedTuple):
    """Costs of a simulated case: trace of the first rank, and static costs."""

    trace: Trace
    facts: StaticCosts


def simulate(
    cases: Iterable[SimulatedCase],
    jobs: int,
    *,
    remember: bool = True,
    on_case: Callable[[SimulatedCase], None] = lambda case: None,
) -> list[Simulated]:
    """Return the costs of several cases in order, computed in `jobs` processes.

    Args:
        cases: Cases to simulate.
        jobs: Processes; one is this process.
        remember: Whether to read and write the cache folder.
        on_case: Called after each.
    """
    listed = list(cases)
    trace = functools.partial(trace_of, remember=remember)
    results = []
    if jobs == 1:
        for case in listed:
            results.append(Simulated(trace(case), facts_of(case)))
            on_case(case)
        return results
    with ProcessPool(jobs) as pool:
        # A trace takes longer than static costs, so that it starts first.
        pending = [(pool.submit(trace, case), pool.submit(facts_of, case)) for case in listed]
        for case, (traced, facts) in zip(listed, pending, strict=True):
            results.append(Simulated(traced.result(), facts.result()))
            on_case(case)
    return results


def trace_ahead(
    cases: Iterable[SimulatedCase], jobs: int, on_trace: Callable[[], None] = lambda: None
) -> None:
    """Trace cases into the cache folder, in `jobs` processes; one traces nothing ahead.

    Args:
        cases: Cases that are going to be traced.
        jobs: Processes.
        on_trace: Called after each.
    """
    missing = [case for case in cases if not _is_stored(case)]
    if jobs == 1 or not missing:
        return
    with ProcessPool(min(jobs, len(missing))) as pool:
        for pending in [pool.submit(_trace_and_store, case) for case in missing]:
            pending.result()
            on_trace()


def _trace_and_store(case: SimulatedCase) -> None:
    trace_of(case)


def _is_stored(case: SimulatedCase) -> bool:
    path = _path(catalogue()[case.workload], case)
    return path is not None and path.exists()


def _path(workload: Workload, case: SimulatedCase) -> Path | None:
    """Return the file of a case's trace; None where there is no cache folder."""
    name = digest(
        [
            *(workload.name, workload.values(case.config), case.data_ranks),
            *(cost_sources(), provenance.foreign_sha256(type(workload).__module__)),
            torch.__version__,
        ]
    )
    try:
        return home() / "traces" / f"{name}.json.gz"
    except HomeError:
        return None
