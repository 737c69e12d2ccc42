"""Rates of the devices that records were measured on."""

from collections.abc import Sequence

from bench.check_device.operators import DEVICE_RATES
from bench.check_device.stages.calibration import calibration_of
from bench.devices.calibration import Calibration, load_calibration
from bench.devices.device import Description
from bench.records.record import Record
from refsys.costs.devices import listed
from refsys.costs.machines import Machine, machine_of
from workloads.catalogue import catalogue

# Rates of a processor whose own were not measured: units, to which a fit's slowdowns are relative.
UNIT_FLOPS, UNIT_BYTES_S = 1e11, 1e10


def is_rate_record(record: Record) -> bool:
    """Return whether a record measures a single resource of a device."""
    workload = catalogue().workloads.get(record.workload.name)
    return workload is not None and workload.device_check == DEVICE_RATES


def recorded_machine(record: Record, records: Sequence[Record]) -> Machine:
    """Return the rates of the device of a record.

    They are those measured on it, in `records` or by an earlier device check on this machine, else
    those listed. A processor of neither has unit rates.

    Args:
        record: Record of a case.
        records: Records that may have the rates of its device.
    """
    device = record.devices[0]
    same = [
        other
        for other in records
        if is_rate_record(other)
        and other.devices[0].name == device.name
        and other.devices[0].uuid_hash == device.uuid_hash
        and other.host.hostname_hash == record.host.hostname_hash
    ]
    calibration = calibration_of(same)
    if calibration is None:
        description = Description(
            vendor=device.vendor, name=device.name, kind=device.kind, uuid_hash=device.uuid_hash
        )
        calibration = load_calibration(description)
    entry = listed(device.name)
    machine = machine_of(entry) if entry else Machine(name=device.name)
    if device.kind == "cpu":
        machine = processor(device.name)
    return with_calibration(machine, calibration) if calibration else machine


def processor(name: str) -> Machine:
    """Return a processor of unit rates."""
    dtypes = ("float32", "float64", "bfloat16", "float16")
    return Machine(
        name=name, flops=dict.fromkeys(dtypes, UNIT_FLOPS), bytes_s=UNIT_BYTES_S, is_host=True
    )


def with_calibration(machine: Machine, calibration: Calibration) -> Machine:
    """Return a device with the rates that were measured on it."""
    return machine.with_achieved(
        flops=calibration.flops,
        bytes_s=calibration.bytes_s,
        exponentials_s=calibration.exponentials_s,
    )
