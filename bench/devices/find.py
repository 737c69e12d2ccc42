"""Which device a case runs on."""

import torch

from bench.devices.amd import AmdDevice
from bench.devices.cpu import CpuDevice
from bench.devices.device import Device
from bench.devices.nvidia import NvidiaDevice
from bench.errors import UsageError

CHOICES = ("auto", "cpu", "cuda")


def find_device(choice: str = "auto", index: int = 0) -> Device:
    """The device that `choice` names; ``auto`` is the accelerator if torch sees one.

    Raises:
        UsageError: the choice does not exist, or there is no such device.
    """
    if choice not in CHOICES:
        raise UsageError(f"device={choice!r} does not exist; choose one of {', '.join(CHOICES)}")
    if choice == "cpu" or (choice == "auto" and not torch.cuda.is_available()):
        return CpuDevice()
    if not torch.cuda.is_available():
        raise UsageError("device='cuda': torch sees no accelerator; see 'foldperf doctor'")
    if index >= torch.cuda.device_count():
        raise UsageError(
            f"rank {index} needs a device of its own: torch sees {torch.cuda.device_count()}"
        )
    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip:
        # torch's stubs do not list the PCI address.
        place = [getattr(properties, f"pci_{part}_id", 0) for part in ("domain", "bus", "device")]
        return AmdDevice(index, "{:04x}:{:02x}:{:02x}.0".format(*place))
    return NvidiaDevice(index, str(properties.uuid))
