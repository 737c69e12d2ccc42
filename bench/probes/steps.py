"""A program's steps, timed by phase."""

from dataclasses import dataclass

from bench.devices import Device
from workloads.workload import Program


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one step.

    Attributes:
        total: All phases.
        phases: Each phase by name.
    """

    total: float
    phases: dict[str, float]


def run_step(program: Program) -> None:
    """Runs every phase once. Work on an accelerator may still be under way."""
    for phase in program.phases:
        program.run(phase)


def timed_step(program: Program, device: Device) -> StepTime:
    """Runs a step; the device is waited for at its end alone, not between phases."""
    watch = device.stopwatch()
    device.synchronize()
    watch.mark()
    for phase in program.phases:
        program.run(phase)
        watch.mark()
    intervals = watch.intervals()
    return StepTime(sum(intervals), dict(zip(program.phases, intervals, strict=True)))
