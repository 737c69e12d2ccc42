"""Simulating a case: its program built and traced with shapes alone."""

from torch._subclasses.fake_tensor import FakeTensorMode

from bench.simulation.trace import Trace, trace
from refsys.ops.rounds import shortened
from workloads.workload import Config, Workload


def simulate(workload: Workload, config: Config) -> Trace:
    """The costs of one step of a case, with optimizer state in place, computing nothing."""
    with FakeTensorMode(), shortened():
        return trace(workload.build_abstract(config))
