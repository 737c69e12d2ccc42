"""Device time and host time of a program's step, in total and by phase.

A graph contains the forward phase alone, or all phases: forward allocates the tensors that it saves
for backward at every step, so a graph of backward alone would read those of another forward pass.
The device time of backward is therefore a difference, with the intervals of both.
"""

from functools import partial

from bench.devices import Device
from bench.probes.device_time import affordable, device_time, host_samples
from bench.probes.steps import run_step
from bench.records.metrics import Value, Values, from_samples, missing
from workloads.workload import Program

DEVICE_AND_HOST_TIMES = ("device_time_s", "host_time_s")


def device_and_host_times(program: Program, device: Device) -> Values:
    """Time a step on the device and on the host.

    Returns:
        ``device_time_s`` and ``host_time_s``, in total and by phase if there are two phases, or the
        reason for none.
    """
    if device.torch_device.type == "cpu":
        why = missing("no accelerator: the host does the work itself; see step_time_s")
        return dict.fromkeys(DEVICE_AND_HOST_TIMES, why)
    if not program.repeatable:
        why = missing("measured for single operators only: a graph cannot repeat this step")
        return dict.fromkeys(DEVICE_AND_HOST_TIMES, why)
    whole = device_time(partial(run_step, program), device)
    values = {"device_time_s": whole}
    if len(program.phases) == 2:
        first, second = program.phases
        forward = device_time(partial(program.run, first), device)
        values[f"device_time_s.{first}"] = forward
        values[f"device_time_s.{second}"] = difference(whole, forward)
    values |= _host_times(program, device, whole)
    # Tensors that a replay wrote live in the graph's memory; replace them.
    run_step(program)
    device.synchronize()
    return values


def _host_times(program: Program, device: Device, whole: Value) -> Values:
    parts = [partial(program.run, phase) for phase in program.phases]
    samples = affordable(whole.value or 0.0)
    by_phase = host_samples(parts, device, samples)
    method = "clock of the host, starting each step from an idle device, median"
    steps = [sum(phases) for phases in zip(*by_phase, strict=True)]
    values = {"host_time_s": from_samples(steps, method)}
    if len(program.phases) > 1:
        for phase, times in zip(program.phases, by_phase, strict=True):
            values[f"host_time_s.{phase}"] = from_samples(times, method)
    return values


def difference(whole: Value, part: Value) -> Value:
    """Return the difference of a total and a part of it, with an interval.

    The distances from the figures to the ends of their intervals are added in quadrature, as for
    independent errors: Zou and Donner, Statistics in Medicine 27 (2008) 1693.
    """
    method = f"difference of two: {whole.method}"
    if whole.value is None or whole.ci is None or part.value is None or part.ci is None:
        return missing(whole.reason or part.reason or "a figure without an interval", method)
    figure = whole.value - part.value
    if figure <= 0:
        return missing("the part takes as long as the total", method)
    below = ((whole.value - whole.ci[0]) ** 2 + (part.ci[1] - part.value) ** 2) ** 0.5
    above = ((whole.ci[1] - whole.value) ** 2 + (part.value - part.ci[0]) ** 2) ** 0.5
    degraded = "degraded" in {whole.quality, part.quality}
    return Value(
        figure,
        method,
        n=min(whole.n, part.n),
        ci=(figure - below, figure + above, min(whole.ci[2], part.ci[2])),
        quality="degraded" if degraded else "measured",
        flags=tuple(dict.fromkeys(whole.flags + part.flags)),
    )
