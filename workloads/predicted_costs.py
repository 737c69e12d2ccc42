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
        ranks: Ranks that average their gradients; the costs are those of one of them.

    Raises:
        WorkloadError: the workload runs on one rank alone.
    """

    def build() -> Program:
        program = workload.build_abstract(config)
        if ranks > 1:
            average = getattr(program, "average_over_ranks", None)
            if average is None:
                raise WorkloadError(f"{workload.name} averages no gradients; take ranks=1")
            average()
        return program

    return predict(build, ranks=ranks)
