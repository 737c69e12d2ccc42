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
from workloads.workload import Config, Workload


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
    def exchange_chunks(self) -> int:
        """Parts in which context ranks exchange channels."""
        axes = catalogue()[self.workload].values(self.config)
        return int(axes.get("exchange_chunks", 1))


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


def traces_of(
    cases: Iterable[SimulatedCase],
    jobs: int,
    *,
    remember: bool = True,
    on_trace: Callable[[SimulatedCase], None] = lambda case: None,
) -> list[Trace]:
    """Return the traces of several cases in order, computed in `jobs` processes.

    Args:
        cases: Cases to simulate.
        jobs: Processes; one is this process.
        remember: Whether to read and write the cache folder.
        on_trace: Called after each.
    """
    listed = list(cases)
    trace = functools.partial(trace_of, remember=remember)
    if jobs == 1 or len(listed) == 1:
        traces = []
        for case in listed:
            traces.append(trace(case))
            on_trace(case)
        return traces
    with ProcessPool(min(jobs, len(listed))) as pool:
        pending = [pool.submit(trace, case) for case in listed]
        traces = []
        for case, result in zip(listed, pending, strict=True):
            traces.append(result.result())
            on_trace(case)
    return traces


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
