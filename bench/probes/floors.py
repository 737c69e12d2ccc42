"""The least time that a device could take for a step, whatever the implementation.

Each of four resources by itself, at the peak rate of the maker's data sheet: none can be beaten,
and no two add up. What bounds the step is the largest.
"""

from bench.devices import Device, Unavailable
from bench.metrics import Value, Values, missing
from workloads.workload import Facts


def floors(device: Device, facts: Facts, seconds: float) -> Values:
    """``floor_s``, whole and by resource, and ``times_floor``.

    Args:
        device: Whose peak rates count.
        facts: What a step takes at the least.
        seconds: What it took.
    """
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
    method = "what a step takes at the least over peak rates of the data sheet"
    floor = max(parts.values())
    values = {f"floor_s.{name}": Value(part, method) for name, part in parts.items() if part}
    if not floor:
        why = missing("nothing is known of what a step takes at the least", method)
        return {"floor_s": why, "times_floor": why}
    return values | {
        "floor_s": Value(floor, method),
        "times_floor": Value(seconds / floor, f"median step time over {method}"),
    }
