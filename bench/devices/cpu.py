"""Host device: the null object of a machine without an accelerator, with RAPL energy."""

import platform
from pathlib import Path

import torch

from bench.devices.device import (
    Description,
    Device,
    HostStopwatch,
    NoPermission,
    NotSupported,
    Stopwatch,
)

POWERCAP = Path("/sys/class/powercap")


class CpuDevice(Device):
    """Host processor."""

    torch_device = torch.device("cpu")

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._powercap = powercap

    def describe(self) -> Description:
        """See `Device`."""
        return Description(
            vendor="none",
            name=cpu_name(),
            kind="cpu",
            energy_domain="rapl package",
            energy_scope="device",
        )

    def stopwatch(self) -> Stopwatch:
        """See `Device`."""
        return HostStopwatch()

    def synchronize(self) -> None:
        """See `Device`; the host's work is done when its call returns."""

    def energy_j(self) -> float:
        """Return the sum of the RAPL package counters. Unit: J."""
        packages = [
            folder
            for folder in sorted(self._powercap.glob("intel-rapl:*"))
            # Other zones (psys, the memory's) overlap with these, or are parts of them.
            if _zone(folder).startswith("package")
        ]
        if not packages:
            raise NotSupported(
                f"no RAPL counter under {self._powercap}",
                "run on bare metal with the intel_rapl driver, or on an accelerator",
            )
        try:
            return (
                sum(int((folder / "energy_uj").read_text(encoding="utf-8")) for folder in packages)
                / 1e6
            )
        except PermissionError:
            raise NoPermission(
                f"{packages[0] / 'energy_uj'} is not readable",
                f"as root: chmod a+r {self._powercap}/intel-rapl:*/energy_uj",
            ) from None
        except (OSError, ValueError) as error:
            raise NotSupported(f"{packages[0] / 'energy_uj'}: {error}") from None


def _zone(folder: Path) -> str:
    try:
        return (folder / "name").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def cpu_name() -> str:
    """Return the model name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
