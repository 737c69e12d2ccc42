"""Traces of invented steps, and devices and links with round rates."""

from refsys.costs.collectives import CollectiveKey, Communication
from refsys.costs.devices import Link
from refsys.costs.machines import Machine
from refsys.costs.storages import Peak
from refsys.costs.trace import Cost, Origin, Trace

PHASES = ("forward", "backward", "optimizer")
MACHINE = Machine(
    name="a device",
    flops={"bfloat16": 4e14, "float32": 5e13},
    bytes_s=2e12,
    exponentials_s=4e12,
    memory_bytes=8e10,
    power_w=500.0,
    idle_w=60.0,
)
FAST = Link(name="fast", source="", bytes_s=3e11, latency_s=2e-6, devices=8)
SLOW = Link(name="slow", source="", bytes_s=2.5e10, latency_s=5e-6)
# Operator -> calls, FLOPs, bytes and exponentials of each call, dtype.
OPERATORS = {
    "aten.mm.default": (40, 4e11, 2e8, 0, "bfloat16"),
    "aten.addmm.default": (3, 1e10, 4e7, 0, "float32"),
    "aten.mul.Tensor": (200, 0, 5e8, 0, "bfloat16"),
    "aten._softmax.default": (10, 0, 4e8, 2e8, "float32"),
    "foldperf.triangle_attention.default": (8, 3e11, 3e8, 8e9, "bfloat16"),
    "foldperf.transition_backward.default": (8, 2e11, 3e8, 1e8, "bfloat16"),
    "aten.sum.dim_IntList": (500, 0, 1e3, 0, "float32"),
}


def step(
    communication: dict[CollectiveKey, Communication] | None = None,
    operators: dict[str, tuple[int, float, float, float, str]] | None = None,
    phases: tuple[str, ...] = PHASES,
) -> Trace:
    """Return a step that runs operators in each of its phases."""
    costs = {}
    for phase in phases:
        for operator, (calls, flops, nbytes, exponentials, dtype) in (
            operators or OPERATORS
        ).items():
            costs[Origin(phase, "model", operator, dtype)] = Cost(
                calls=calls,
                launches=calls,
                flops=int(calls * flops),
                nbytes=int(calls * nbytes),
                exponentials=int(calls * exponentials),
            )
    peaks = {phase: Peak(0, {}, {}) for phase in phases if phase != "recompute"}
    return Trace(costs, Peak(0, {}, {}), peaks, communication=communication or {})


def exchange(
    kind: str = "all_to_all", ranks: int = 16, operator: str = "triangle_multiplication"
) -> dict[CollectiveKey, Communication]:
    """Return the communication of a step with one kind of collective in forward."""
    key = CollectiveKey("forward", kind, ranks, operator, "forward")
    return {
        key: Communication(
            calls=100, payload_bytes=10**10, sent_bytes=10**10, messages=100 * (ranks - 1)
        )
    }


def trace_with_peak(nbytes: int, seconds: float = 1.0) -> Trace:
    """Return a step of one matrix product with a peak and a number of seconds at 400 TFLOP/s."""
    origin = Origin("forward", "model", "aten.mm.default", "bfloat16")
    costs = {origin: Cost(calls=1, launches=1, flops=int(4e14 * seconds), nbytes=10**9)}
    peak = Peak(nbytes, {"activations": nbytes}, {})
    return Trace(costs, peak, {"forward": peak})
