"""Stage ``calibration``: achieved rates of the device, its energy counter and its idle power."""

import time
from functools import partial
from typing import Any

from bench.check_device.check import Check, FailedError, Item
from bench.check_device.operators import BF16, DEVICE_RATES, FLOAT32, configuration_of
from bench.check_device.recorder import Measured
from bench.check_device.timing import program_times
from bench.devices import Device, Unavailable
from bench.devices.calibration import Calibration, save_calibration
from bench.probes.poller import CounterPoller
from bench.records.record import Record
from workloads.workload import Config

_CASES = (
    ("copy", BF16),
    ("l2_copy", BF16),
    ("product", BF16),
    ("product", FLOAT32),
    ("exponentials", BF16),
)
# Quantity -> name of its rate in `Calibration`.
_RATES = {"copy": "bytes_s", "l2_copy": "l2_bytes_s", "exponentials": "exponentials_s"}
_POLL_S = 0.002


def run(check: Check) -> dict[str, Any]:
    """Measure the rates, keep them for later rooflines, and return them.

    Raises:
        FailedError: none of them can be measured.
    """
    idle_before, tick = at_rest(check.device, check.sizes.idle_s)
    records = check.run([_item(check, *case) for case in _CASES])
    idle_after, _ = at_rest(check.device, check.sizes.idle_s)
    calibration = calibration_of(records)
    if calibration is None:
        raise FailedError("no rate could be measured")
    if not check.is_rehearsal:
        save_calibration(check.device.describe(), calibration)
    return {
        "rates": calibration.as_json(),
        "energy_counter_tick_s": tick,
        "idle_power_w": {"before": idle_before, "after": idle_after},
    }


def _item(check: Check, quantity: str, precision: str) -> Item:
    size = check.sizes.calibration[quantity]
    values = {"quantity": quantity, "precision": precision, "size": size}
    workload = check.workload(DEVICE_RATES)
    config = workload.configure(values)
    title = f"{quantity} {precision}" if quantity == "product" else quantity
    return Item(title, workload.name, config, partial(_measure, check, config))


def _measure(check: Check, config: Config) -> Measured:
    workload = check.workload(DEVICE_RATES)
    program, facts = workload.build(config, check.setting()), workload.static_costs(config)
    return Measured.of(
        program_times(check, program, facts, check.sizes.samples),
        facts.as_json(),
        outcome=program.outcome(),
        notes={"phases": list(program.phases)},
        protocol={"timed_steps": check.sizes.samples},
    )


def calibration_of(records: list[Record]) -> Calibration | None:
    """Return the rates that calibration records give, or None if they give none."""
    rates: dict[str, float] = {}
    flops: dict[str, float] = {}
    for record in records:
        seconds = record.value("device_time_s") or record.value("step_time_s")
        work = record.outcome.get("work")
        if record.status != "ok" or not seconds or not work or record.facts is None:
            continue
        rate = work / seconds
        quantity = configuration_of(record).quantity
        if quantity == "product":
            flops[record.facts.arithmetic] = rate
        else:
            rates[_RATES[quantity]] = rate
    if not rates and not flops:
        return None
    newest = max(record.started_at for record in records)
    runs = tuple(record.run_id for record in records if record.status == "ok")
    return Calibration(flops=flops, measured_at=newest, run_ids=runs, **rates)


def at_rest(device: Device, seconds: float) -> tuple[float | str, float | str]:
    """Return power without work (W) and period of the energy counter (s), or why each is unknown.

    Both are taken from tick to tick: readings at any moment err by up to a tick.
    """
    try:
        device.energy_j()
    except Unavailable as error:
        return str(error), str(error)
    device.synchronize()
    with CounterPoller(device, _POLL_S) as poller:
        time.sleep(seconds)
    log, period = poller.log, poller.log.period()
    if poller.error or period is None:
        reason = str(poller.error or f"{len(log.times)} ticks of the counter in {seconds:g} s")
        return reason, reason
    power = (log.joules[-1] - log.joules[0]) / (log.times[-1] - log.times[0])
    return power, period
