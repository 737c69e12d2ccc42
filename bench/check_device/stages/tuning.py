"""Stage ``tuning``: candidate launch options of the heaviest kernels, stored for this device."""

from collections.abc import Callable
from typing import Any

from bench.check_device.check import Check, OutOfTimeError, SkippedError
from bench.check_device.operators import SINGLE_OPERATOR, kernel_operators
from bench.devices import Device
from bench.errors import UsageError
from bench.tuning import Tuned, check_device, kernel_times, tune
from refsys.ops.tuning import Key
from workloads.workload import Program


def run(check: Check) -> dict[str, Any]:
    """Tune the heaviest kernels one by one, and return what was found for each.

    Raises:
        OutOfTimeError: there is no time for all; finished ones are stored.
        SkippedError: no kernel can run here.
    """
    check.need_accelerator("kernels")
    try:
        check_device(check.device)
    except UsageError as error:
        raise SkippedError(str(error)) from None
    heaviest = _heaviest(check)
    if not heaviest:
        raise SkippedError(f"no operator starts a kernel in {check.sizes.tuned_precision}")
    done: list[Tuned] = []
    for number, (key, program) in enumerate(heaviest):
        if check.remaining() <= 0:
            raise OutOfTimeError(
                f"{len(done)} of {len(heaviest)} kernels are tuned", _as_json(done)
            )
        rounds = check.sizes.rounds
        # Each kernel has its share of the time left.
        expired = _expiry(check, check.remaining() / (len(heaviest) - number))
        for tuned in tune(program, check.device, rounds, keys=[key], expired=expired):
            done.append(tuned)
            check.say(f"tuning {key.kernel} {key.bucket}: {tuned.speedup:.2f} times as shipped")
    return _as_json(done)


def _expiry(check: Check, seconds: float) -> Callable[[], bool]:
    end = check.clock() + seconds
    return lambda: check.clock() >= end


def _heaviest(check: Check) -> list[tuple[Key, Program]]:
    """Return the kernels that take the most time in one call of their operators."""
    sizes, workload = check.sizes, check.workload(SINGLE_OPERATOR)
    timed: dict[Key, tuple[float, Program]] = {}
    operators = sizes.tuned_operators or kernel_operators(check)
    for operator in operators:
        if check.remaining() <= 0:
            break
        config = workload.configure(
            {
                "operator": operator,
                "preset": sizes.preset,
                "tokens": sizes.bits,
                "precision": sizes.tuned_precision,
                "backend": "triton",
            }
        )
        program = workload.build(config, check.setting())
        for key, seconds in _times(program, check.device).items():
            if key not in timed or seconds > timed[key][0]:
                timed[key] = seconds, program
    ranked = sorted(timed.items(), key=lambda item: -item[1][0])
    return [(key, program) for key, (_, program) in ranked[: sizes.tuned]]


def _times(program: Program, device: Device) -> dict[Key, float]:
    try:
        return kernel_times(program, device)
    except UsageError:
        return {}  # it has no kernel for this dtype


def _as_json(done: list[Tuned]) -> dict[str, Any]:
    return {
        "kernels": [
            {
                "kernel": kernel.key.kernel,
                "bucket": kernel.key.bucket,
                "shipped": dict(kernel.shipped),
                "options": dict(kernel.options),
                "shipped_s": kernel.shipped_s,
                "best_s": kernel.best_s,
                "tried": kernel.tried,
            }
            for kernel in done
        ]
    }
