"""Costs of a case from shapes alone."""

import hashlib
from functools import cache
from pathlib import Path

from refsys.costs.prediction import predict
from refsys.costs.trace import Trace
from workloads.workload import Config, Workload

_ROOT = Path(__file__).resolve().parents[1]


def predicted_costs(workload: Workload, config: Config, *, ranks: int = 1) -> Trace:
    """Return the costs of one step of a case, with optimizer state in place, computing nothing.

    Args:
        workload: Workload of the case.
        config: Every axis.
        ranks: Ranks that average their gradients, or groups of context ranks that do; the costs
            are those of the first one.

    Raises:
        WorkloadError: the workload runs on one rank alone, or on one context group.
    """
    if ranks > 1:
        config = workload.on_data_ranks(config, ranks)
    return predict(
        lambda: workload.build_abstract(config), ranks=ranks * workload.context_ranks(config)
    )


@cache
def cost_sources() -> str:
    """Return a hash of all source files that a cost can depend on."""
    digest = hashlib.sha256()
    for package in ("refsys", "workloads"):
        for path in sorted((_ROOT / package).rglob("*.py")):
            digest.update(f"{path.relative_to(_ROOT).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
