"""Scripted accelerators of torch."""

from collections.abc import Sequence
from types import SimpleNamespace

import torch


def gpu(name: str, units: int, memory: int = 2**36, bus: int = 0xC1, **more) -> SimpleNamespace:
    """Return properties like those of `torch.cuda.get_device_properties`."""
    usual = {
        **{"name": name, "multi_processor_count": units, "total_memory": memory, "uuid": "7"},
        **{"pci_domain_id": 0, "pci_bus_id": bus, "pci_device_id": 0},
    }
    return SimpleNamespace(**(usual | more))


def script_torch(monkeypatch, devices: Sequence[SimpleNamespace], *, hip: bool = False) -> None:
    """Let torch see these devices, as a ROCm or CUDA build."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(devices))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: devices[index])
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 27, 3))
    monkeypatch.setattr(torch.version, "hip", "7.0" if hip else None)
