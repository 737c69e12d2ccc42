"""Devices of all vendors, behind one small interface.

`Device` has a subclass for each vendor; `CpuDevice` is the null object of a machine without an
accelerator. A reading that a device does not have raises `Unavailable` with the reason and, if
there is one, the remedy.
"""

from bench.devices.device import Device, EnergyReading, Stopwatch, Unavailable
from bench.devices.find import find_device

__all__ = ["Device", "EnergyReading", "Stopwatch", "Unavailable", "find_device"]
