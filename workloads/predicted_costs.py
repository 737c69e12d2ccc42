"""Costs of a case from shapes alone."""

from refsys.costs.prediction import predict
from refsys.costs.trace import Trace
from workloads.errors import WorkloadError
from workloads.workload import Config, Program, Workload


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
    if ranks > 1 and workload.context_ranks(config) > 1:
        raise WorkloadError("several context groups are not traced together; take ranks=1")

    def build() -> Program:
        program = workload.build_abstract(config)
        if ranks > 1:
            average = getattr(program, "average_over_ranks", None)
            if average is None:
                raise WorkloadError(f"{workload.name} averages no gradients; take ranks=1")
            average()
        return program

    return predict(build, ranks=ranks * workload.context_ranks(config))
