"""Step time and phase times."""

from collections.abc import Callable
from statistics import median

from bench.devices import Device
from bench.probes.steps import StepTime, timed_step
from bench.records.metrics import Values, from_samples
from workloads.workload import Program

# Relative trend between the halves of the samples above which times are flagged.
_DRIFT = 0.1


def measure_time(
    program: Program,
    device: Device,
    timed_steps: int,
    after_step: Callable[[], None] | None = None,
) -> tuple[Values, list[StepTime]]:
    """Time steps of a program that has warmed up.

    Args:
        program: Program to time.
        device: Device on which it runs.
        timed_steps: Number of steps.
        after_step: Reading of the device's state, taken after each step and not timed.

    Returns:
        ``step_time_s`` and ``phase_time_s.<phase>``, and the times of the steps.
    """
    steps = []
    for _ in range(timed_steps):
        steps.append(timed_step(program, device))
        if after_step:
            after_step()
    totals = [step.total for step in steps]
    flags = ("drifting",) if _drifts(totals) else ()
    method = f"{device.torch_device.type} stopwatch, median"
    values = {"step_time_s": from_samples(totals, method, flags)}
    for phase in program.phases:
        samples = [step.phases[phase] for step in steps]
        values[f"phase_time_s.{phase}"] = from_samples(samples, method)
    return values, steps


def _drifts(samples: list[float]) -> bool:
    if len(samples) < 4:
        return False
    half = len(samples) // 2
    early, late = median(samples[:half]), median(samples[-half:])
    return abs(late - early) > _DRIFT * min(early, late)
