"""Times of one operator on the device under test, beside its roofline bound."""

from functools import partial

from bench.check_device.check import Check, Item
from bench.check_device.operators import SINGLE_OPERATOR
from bench.check_device.recorder import Measured
from bench.probes.device_time import work_times
from bench.probes.roofline import roofline_bounds
from bench.probes.steps import run_step
from bench.probes.utilization import model_flop_rates
from bench.records.metrics import Values
from workloads.errors import UnsupportedError
from workloads.operators import OperatorCase
from workloads.workload import Program, StaticCosts


def operator_item(
    check: Check, operator: str, tokens: int, backend: str, *, backward: bool, precision: str
) -> Item:
    """Return the case of an operator at a size on a backend, forward alone or with backward."""
    workload = check.workload(SINGLE_OPERATOR)
    config = workload.configure(
        {
            "operator": operator,
            "preset": check.sizes.preset,
            "tokens": tokens,
            "precision": precision,
            "backend": backend,
            "backward": backward,
        }
    )
    passes = "forward and backward" if backward else "forward"
    title = f"{operator} {backend} {tokens} {passes}"
    return Item(title, workload.name, config, partial(time_operator, check, config))


def time_operator(check: Check, config: OperatorCase, samples: int | None = None) -> Measured:
    """Time an operator by graph replay and in eager mode.

    Args:
        check: Device and sizes.
        config: Case of the workload.
        samples: Samples of each figure; the check's if None.

    Raises:
        UnsupportedError: it does not run on the backend that the case asks for.
    """
    workload = check.workload(SINGLE_OPERATOR)
    program = workload.build(config, check.setting())
    program.implementations()
    samples = samples or check.sizes.samples
    values = program_times(check, program, workload.static_costs(config), samples)
    notes = program.notes()
    ran, backend = program.implementations(), config.backend
    if ran.get(config.operator) != backend:
        reasons = sorted({fallback["reason"] for fallback in notes.get("fallbacks", ())})
        raise UnsupportedError(f"{backend} does not serve it: {'; '.join(reasons) or 'fell back'}")
    return Measured.of(
        values,
        workload.static_costs(config).as_json(),
        notes=notes | {"implementations": ran, "phases": list(program.phases)},
        protocol={"timed_steps": samples},
    )


def program_times(check: Check, program: Program, facts: StaticCosts, samples: int) -> Values:
    """Return times of a program's step, its rates, and its ratio to the roofline bound."""
    work, batch_s = partial(run_step, program), check.sizes.sample_s
    times = work_times(work, check.device, samples=samples, batch_s=batch_s)
    # Time of a step without waiting for the host.
    seconds = float(times.device.value or times.eager.value or 0.0)
    return {
        "step_time_s": times.eager,
        "device_time_s": times.device,
        "host_time_s": times.host,
        **roofline_bounds(check.device, facts, seconds),
        **model_flop_rates(check.device, facts, seconds),
    }
