"""Steps of a program, timed by phase."""

from dataclasses import dataclass

from bench.devices import Device
from workloads.workload import Program


@dataclass(frozen=True, slots=True)
class StepTime:
    """Time of one step. Unit: s.

    Attributes:
        total: Time of all phases.
        phases: Time of each phase, by name.
    """

    total: float
    phases: dict[str, float]


def run_step(program: Program) -> None:
    """Run every phase once; work on an accelerator may be queued when it returns."""
    for phase in program.phases:
        program.run(phase)


def timed_step(program: Program, device: Device) -> StepTime:
    """Run a step and time its phases, with a synchronization at the end of the step only."""
    watch = device.stopwatch()
    device.synchronize()
    watch.mark()
    for phase in program.phases:
        program.run(phase)
        watch.mark()
    intervals = watch.intervals()
    return StepTime(sum(intervals), dict(zip(program.phases, intervals, strict=True)))
