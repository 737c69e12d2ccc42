"""Stage ``step``: a whole training step, with launches, peak memory and energy."""

from dataclasses import asdict
from functools import partial
from typing import Any

from bench.check_device.check import Check, FailedError, Item
from bench.check_device.operators import BF16
from bench.check_device.recorder import Measured
from bench.measure import Protocol, measure
from bench.record import metric
from workloads.workload import Config

_WORKLOAD = "alphafold3"
_SHOWN = (
    *("step_time_s", "kernel_launches", "peak_allocated_bytes", "peak_tracked_bytes"),
    *("predicted_peak_bytes", "energy_per_step_j", "mean_power_w"),
)


def run(check: Check) -> dict[str, Any]:
    """Measure the step, and return its main figures.

    Raises:
        FailedError: it did not run to its end.
    """
    check.need_accelerator("steps of the full model")
    config = check.workload(_WORKLOAD).configure(
        {
            "preset": check.sizes.preset,
            "entry": "synthetic",
            "tokens": check.sizes.step,
            "precision": "float32" if check.is_rehearsal else BF16,
            "backend": check.sizes.backend,
        }
    )
    title = f"{_WORKLOAD} {check.sizes.step}"
    (record,) = check.run([Item(title, _WORKLOAD, config, partial(_measure, check, config))])
    if record["status"] != "ok":
        raise FailedError(f"{record['status']}: {record['reason']}")
    return {name: metric(record, name) for name in _SHOWN}


def _measure(check: Check, config: Config) -> Measured:
    sizes = check.sizes
    protocol = Protocol(warmup_steps=1, timed_steps=5, counts=sizes.counts, energy_s=sizes.energy_s)
    workload = check.workload(_WORKLOAD)
    found = measure(workload, config, check.setting(), check.device, protocol)
    return Measured(**found, protocol=asdict(protocol))
