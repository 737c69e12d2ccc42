"""Stage ``step``: a whole training step, its time, memory and energy, then its counts."""

from dataclasses import asdict
from functools import partial
from typing import Any

from bench.check_device.check import Check, FailedError, Item
from bench.check_device.operators import BF16, TRAINING_STEP
from bench.check_device.recorder import Measured
from bench.probes.counts import count_kernels
from bench.probes.steps import timed_step
from bench.records.metrics import Value
from bench.run.measure import Protocol, measure, predicted_peak
from workloads.workload import Config

_SHOWN = (
    *("step_time_s", "kernel_launches", "peak_allocated_bytes", "predicted_peak_bytes"),
    *("energy_per_step_j", "mean_power_w"),
)


def run(check: Check) -> dict[str, Any]:
    """Measure the step, and return its main figures.

    Raises:
        FailedError: it did not run to its end.
    """
    check.need_accelerator("steps of the full model")
    workload = check.workload(TRAINING_STEP)
    config = workload.configure(
        {
            "preset": check.sizes.preset,
            "entry": "synthetic",
            "tokens": check.sizes.step,
            "precision": BF16,
            "backend": check.sizes.backend,
            **check.sizes.step_axes,
        }
    )
    title = f"{workload.name} {check.sizes.step}"
    items = [Item(title, workload.name, config, partial(_measure, check, config))]
    if check.sizes.counts:
        # A separate record: counting takes as long again, and its failure must not lose the times.
        counts = partial(_count, check, config)
        items.append(Item(f"{title} counts", workload.name, config, counts, salt="counts"))
    records = check.run(items)
    for record in records:
        if record.status != "ok":
            raise FailedError(f"{record.status}: {record.reason}")
    return {
        name: next((v for record in records if (v := record.value(name)) is not None), None)
        for name in _SHOWN
    }


def _measure(check: Check, config: Config) -> Measured:
    energy_s = check.sizes.energy_s
    protocol = Protocol(warmup_steps=1, timed_steps=5, counts=False, energy_s=energy_s)
    workload = check.workload(TRAINING_STEP)
    result = measure(workload, config, check.setting(), check.device, protocol)
    return Measured(**result, protocol=asdict(protocol))


def _count(check: Check, config: Config) -> Measured:
    """Return the launches of a step by the profiler, and its predicted peak."""
    workload = check.workload(TRAINING_STEP)
    program = workload.build(config, check.setting())
    timed_step(program, check.device)
    time = Value(timed_step(program, check.device).total, "stopwatch, one step")
    kernels, breakdown = count_kernels(program, check.device)
    return Measured.of(
        {"step_time_s": time, **kernels, **predicted_peak(workload, config)},
        workload.static_costs(config).as_json(),
        breakdown=breakdown,
        notes=program.notes() | {"phases": list(program.phases)},
        protocol={"timed_steps": 1, "counts": True},
    )
