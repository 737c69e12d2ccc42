"""Selection of the device of a case."""

import os

import torch

from bench.devices.accelerator import TorchProperties
from bench.devices.amd import AmdDevice
from bench.devices.cpu import CpuDevice
from bench.devices.device import Device
from bench.devices.nvidia import NvidiaDevice
from bench.errors import UsageError

CHOICES = ("auto", "cpu", "cuda")


def find_device(choice: str = "auto", index: int = 0) -> Device:
    """Return the device named by `choice`; ``auto`` is the accelerator if torch sees one.

    Raises:
        UsageError: The choice does not exist, or there is no such device.
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
    properties = TorchProperties.read(index)
    if torch.version.hip:
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
        of_case = range(min(ranks, torch.cuda.device_count())) if ranks > 1 else [index]
        bdfs = [_pci_address(number) for number in of_case]
        return AmdDevice(index, _pci_address(index), None, properties, bdfs)
    return NvidiaDevice(index, properties.uuid, None, properties)


def _pci_address(index: int) -> str:
    """Return the PCI address of torch's device of that number."""
    properties = torch.cuda.get_device_properties(index)
    # torch's stubs do not list the parts.
    parts = [getattr(properties, f"pci_{part}_id", 0) for part in ("domain", "bus", "device")]
    return "{:04x}:{:02x}:{:02x}.0".format(*parts)
