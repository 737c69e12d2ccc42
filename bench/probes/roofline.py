"""Roofline bounds of a step as metrics, by peak and by achieved rates of the device.

The peak rates are those of the manufacturer's data sheet. If ``foldperf check-device`` has measured
the device, a second bound follows from its achieved rates.
"""

from dataclasses import replace

from bench.devices import Device, Unavailable
from bench.devices.calibration import Calibration, load_calibration
from bench.records.metrics import Value, Values, missing
from refsys.costs.roofline import DeviceRates, Roofline, Work, roofline
from workloads.workload import StaticCosts

_PEAK = "minimum work of a step over peak rates of the data sheet"
_ACHIEVED = "minimum work of a step over rates achieved on this device"


def roofline_bounds(device: Device, facts: StaticCosts, seconds: float) -> Values:
    """Return ``roofline_bound_s``, in total and by resource, and ``ratio_to_roofline``.

    Both are also returned by achieved rates, as ``achieved_bound_s`` and
    ``ratio_to_achieved_bound``.

    Args:
        device: Device whose rates count.
        facts: Exact costs of the step, its least work among them.
        seconds: Time of a step.
    """
    return _by_peak(device, facts, seconds) | _by_calibration(device, facts, seconds)


def _by_peak(device: Device, facts: StaticCosts, seconds: float) -> Values:
    try:
        rates = peak_device_rates(device, facts.arithmetic)
    except Unavailable as error:
        why = missing(str(error))
        return {"roofline_bound_s": why, "ratio_to_roofline": why}
    bounds = roofline(minimum_work(facts), rates)
    values = {
        f"roofline_bound_s.{name}": Value(part, _PEAK) for name, part in bounds.seconds.items()
    }
    return values | _bound("roofline_bound_s", "ratio_to_roofline", bounds, seconds, _PEAK)


def _by_calibration(device: Device, facts: StaticCosts, seconds: float) -> Values:
    calibration = load_calibration(device.describe())
    if calibration is None:
        why = missing("no calibration of this device: run foldperf check-device")
        return {"achieved_bound_s": why, "ratio_to_achieved_bound": why}
    # No calibration measures instructions.
    work = replace(minimum_work(facts), instructions=0)
    bounds = roofline(work, achieved_device_rates(calibration, facts.arithmetic))
    if bounds.unknown:
        names = ", ".join(bounds.unknown)
        why = missing(f"the calibration of {calibration.measured_at} has no rate of {names}")
        return {"achieved_bound_s": why, "ratio_to_achieved_bound": why}
    method = f"{_ACHIEVED} at {calibration.measured_at}"
    return _bound("achieved_bound_s", "ratio_to_achieved_bound", bounds, seconds, method)


def minimum_work(facts: StaticCosts) -> Work:
    """Return the minimum work of a step, for any implementation."""
    return Work(
        flops=facts.step_flops,
        nbytes=facts.minimum_bytes,
        exponentials=facts.exponentials,
        instructions=facts.instructions,
    )


def peak_device_rates(device: Device, dtype: str) -> DeviceRates:
    """Return the peak rates of a device for products of a dtype.

    Raises:
        Unavailable: the table of devices lacks one of them.
    """
    rates = device.peak_rates()
    return DeviceRates(flops_s=device.peak_flops(dtype), **rates._asdict())


def achieved_device_rates(calibration: Calibration, dtype: str) -> DeviceRates:
    """Return the rates that a device reached, for products of a dtype."""
    return DeviceRates(
        flops_s=calibration.flops.get(dtype),
        bytes_s=calibration.bytes_s,
        exponentials_s=calibration.exponentials_s,
    )


def _bound(
    bound_name: str, ratio_name: str, bounds: Roofline, seconds: float, method: str
) -> Values:
    if bounds.bound_s is None:
        why = missing("the minimum work of a step is not known", method)
        return {bound_name: why, ratio_name: why}
    return {
        bound_name: Value(bounds.bound_s, method),
        ratio_name: Value(seconds / bounds.bound_s, f"step time over {method}"),
    }
