"""Roofline bounds: the least time that a device could take for a step, by any implementation.

Each of four resources by itself; none can be beaten, and no two add up. What bounds the step is the
largest. The rates are the peaks of the maker's data sheet and, where ``foldperf check-device`` has
measured this very device, those that it reached.
"""

from collections.abc import Mapping

from bench.devices import Device, Unavailable
from bench.devices.calibration import Calibration, known_calibration
from bench.records.metrics import Value, Values, missing
from workloads.workload import Facts

_PEAK = "what a step takes at the least over peak rates of the data sheet"
_ACHIEVED = "what a step takes at the least over rates achieved on this device"


def floors(device: Device, facts: Facts, seconds: float) -> Values:
    """Return ``floor_s``, whole and by resource, ``times_floor``, and the same by achieved rates.

    Args:
        device: Device whose rates count.
        facts: What a step takes at the least.
        seconds: Time of a step.
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
    return values | _whole("floor_s", "times_floor", parts, seconds, _PEAK)


def _by_calibration(device: Device, facts: Facts, seconds: float) -> Values:
    found = known_calibration(device.describe())
    if found is None:
        why = missing("no calibration of this device: run foldperf check-device")
        return {"achieved_bound_s": why, "times_achieved_bound": why}
    parts, unknown = _achieved(found, facts)
    if unknown:
        why = missing(f"the calibration of {found.measured_at} has no rate of {', '.join(unknown)}")
        return {"achieved_bound_s": why, "times_achieved_bound": why}
    method = f"{_ACHIEVED} at {found.measured_at}"
    return _whole("achieved_bound_s", "times_achieved_bound", parts, seconds, method)


def _achieved(found: Calibration, facts: Facts) -> tuple[dict[str, float], list[str]]:
    """Return seconds by resource, and the resources that are used and have no rate."""
    needs = {
        "products": (facts.step_flops, found.flops.get(facts.arithmetic)),
        "bytes": (facts.minimum_bytes, found.bytes_s),
        "exponentials": (facts.exponentials, found.exponentials_s),
    }
    parts = {name: work / rate for name, (work, rate) in needs.items() if work and rate}
    return parts, [name for name, (work, rate) in needs.items() if work and not rate]


def _whole(
    bound_name: str, ratio_name: str, parts: Mapping[str, float], seconds: float, method: str
) -> Values:
    bound = max(parts.values(), default=0.0)
    if not bound:
        why = missing("nothing is known of what a step takes at the least", method)
        return {bound_name: why, ratio_name: why}
    return {
        bound_name: Value(bound, method),
        ratio_name: Value(seconds / bound, f"time of a step over {method}"),
    }
