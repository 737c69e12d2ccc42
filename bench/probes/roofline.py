"""Roofline bounds: the minimum time of a step on a device, for any implementation.

Each of four resources gives a bound of its own; the bound of a step is the largest of them. The
rates are the peaks of the manufacturer's data sheet and, if ``foldperf check-device`` has measured
the device, its achieved rates.
"""

from collections.abc import Mapping

from bench.devices import Device, Unavailable
from bench.devices.calibration import Calibration, load_calibration
from bench.records.metrics import Value, Values, missing
from workloads.workload import Facts

_PEAK = "minimum work of a step over peak rates of the data sheet"
_ACHIEVED = "minimum work of a step over rates achieved on this device"


def roofline_bounds(device: Device, facts: Facts, seconds: float) -> Values:
    """Return ``floor_s``, in total and by resource, ``times_floor``, and both by achieved rates.

    Args:
        device: Device whose rates are used.
        facts: Minimum work of a step.
        seconds: Time of a step. Unit: s.
    """
    return _by_peak(device, facts, seconds) | _by_calibration(device, facts, seconds)


def _by_peak(device: Device, facts: Facts, seconds: float) -> Values:
    try:
        rates, flops = device.peak_rates(), device.peak_flops(facts.arithmetic)
    except Unavailable as error:
        why = missing(str(error))
        return {"floor_s": why, "times_floor": why}
    parts = {
        "products": facts.step_flops / flops,
        "bytes": facts.minimum_bytes / rates.bytes_s,
        "exponentials": facts.exponentials / rates.exponentials_s,
        "instructions": facts.instructions / rates.instructions_s,
    }
    values = {f"floor_s.{name}": Value(part, _PEAK) for name, part in parts.items() if part}
    return values | _bound_values("floor_s", "times_floor", parts, seconds, _PEAK)


def _by_calibration(device: Device, facts: Facts, seconds: float) -> Values:
    calibration = load_calibration(device.describe())
    if calibration is None:
        why = missing("no calibration of this device: run foldperf check-device")
        return {"achieved_bound_s": why, "times_achieved_bound": why}
    parts, unknown = _achieved(calibration, facts)
    if unknown:
        why = missing(
            f"the calibration of {calibration.measured_at} has no rate of {', '.join(unknown)}"
        )
        return {"achieved_bound_s": why, "times_achieved_bound": why}
    method = f"{_ACHIEVED} at {calibration.measured_at}"
    return _bound_values("achieved_bound_s", "times_achieved_bound", parts, seconds, method)


def _achieved(calibration: Calibration, facts: Facts) -> tuple[dict[str, float], list[str]]:
    """Return seconds by resource, and the used resources without a rate."""
    needs = {
        "products": (facts.step_flops, calibration.flops.get(facts.arithmetic)),
        "bytes": (facts.minimum_bytes, calibration.bytes_s),
        "exponentials": (facts.exponentials, calibration.exponentials_s),
    }
    parts = {name: work / rate for name, (work, rate) in needs.items() if work and rate}
    return parts, [name for name, (work, rate) in needs.items() if work and not rate]


def _bound_values(
    bound_name: str, ratio_name: str, parts: Mapping[str, float], seconds: float, method: str
) -> Values:
    bound = max(parts.values(), default=0.0)
    if not bound:
        why = missing("the minimum work of a step is not known", method)
        return {bound_name: why, ratio_name: why}
    return {
        bound_name: Value(bound, method),
        ratio_name: Value(seconds / bound, f"step time over {method}"),
    }
