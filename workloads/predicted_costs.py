"""Costs of a case from shapes alone."""

from functools import partial

from refsys.costs.prediction import predict
from refsys.costs.trace import Trace
from workloads.workload import Config, Workload


def predicted_costs(workload: Workload, config: Config) -> Trace:
    """Return the costs of one step of a case, with optimizer state in place, computing nothing."""
    return predict(partial(workload.build_abstract, config))
