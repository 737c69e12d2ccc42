"""Device interface, and the errors to which errors of vendor libraries are converted."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from time import perf_counter
from typing import Any, Literal, NamedTuple

import torch

from bench.errors import BenchError
from refsys.costs.devices import Rates


class Unavailable(BenchError):
    """Quantity that is not available from this device or driver, or to this user.

    Attributes:
        unlock: Remedy that would make it available; empty if there is none.
    """

    def __init__(self, reason: str, unlock: str = "") -> None:
        super().__init__(reason)
        self.unlock = unlock


class LibraryMissing(Unavailable):
    """Vendor library or Python binding that is missing."""


class NotSupported(Unavailable):
    """Counter that the device or its driver does not have."""


class NoPermission(Unavailable):
    """Counter that the user may not read."""


class DeviceLost(Unavailable):
    """Device that no longer responds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """Identity and state of a device, as stored in a record; None if unknown.

    Attributes:
        partition: Part of a divided device that torch sees, or the name of the undivided state.
        energy_domain: Name of the energy counter; equal for devices that share a counter.
        energy_scope: ``module`` if the counter includes more than this device: the other die, or
            the processor of the same socket.
    """

    vendor: str
    name: str
    kind: str
    memory_bytes: int | None = None
    uuid_hash: str | None = None
    driver: str | None = None
    vbios: str | None = None
    power_cap_w: float | None = None
    partition: str | None = None
    ecc: bool | None = None
    energy_domain: str | None = None
    energy_scope: Literal["device", "module"] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the fields of a record."""
        return asdict(self)


class EnergyReading(NamedTuple):
    """Reading of an energy counter.

    Attributes:
        joules: Energy since an arbitrary zero.
        device_s: Time of the reading by the device's own clock, since an arbitrary zero; None if
            the counter has no time stamp. Unit: s.
    """

    joules: float
    device_s: float | None = None


def hashed(identity: object) -> str | None:
    """Return a hash of a serial number or UUID; records identify devices without naming them."""
    return None if identity is None else hashlib.sha256(str(identity).encode()).hexdigest()[:16]


class Stopwatch(ABC):
    """Time marks in the device's stream of work, and the intervals between them."""

    @abstractmethod
    def mark(self) -> None:
        """Record the present moment."""

    @abstractmethod
    def intervals(self) -> list[float]:
        """Return the seconds between successive marks since the last call; wait for the device."""


class HostStopwatch(Stopwatch):
    """Stopwatch for synchronous work on the host."""

    def __init__(self) -> None:
        self._marks: list[float] = []

    def mark(self) -> None:
        """See `Stopwatch`."""
        self._marks.append(perf_counter())

    def intervals(self) -> list[float]:
        """See `Stopwatch`."""
        marks, self._marks = self._marks, []
        return [later - earlier for earlier, later in pairwise(marks)]


class CudaStopwatch(Stopwatch):
    """Stopwatch for work that is queued on the current CUDA or HIP stream."""

    def __init__(self) -> None:
        self._marks: list[torch.cuda.Event] = []

    def mark(self) -> None:
        """See `Stopwatch`."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append(event)

    def intervals(self) -> list[float]:
        """See `Stopwatch`."""
        torch.cuda.synchronize()
        marks, self._marks = self._marks, []
        return [earlier.elapsed_time(later) / 1e3 for earlier, later in pairwise(marks)]


class Device(ABC):
    """Device. Every reading raises `Unavailable` if the device does not have it."""

    torch_device: torch.device

    @abstractmethod
    def describe(self) -> Description:
        """Return the device's identity and state."""

    @abstractmethod
    def stopwatch(self) -> Stopwatch:
        """Return a new stopwatch for work on this device."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all queued work is done."""

    def used_bytes(self) -> int:
        """Return the device memory in use, by any process. Unit: B."""
        raise NotSupported("no device memory apart from the host's", "run on an accelerator")

    def energy_j(self) -> float:
        """Read the energy counter, which has an arbitrary zero. Unit: J."""
        raise NotSupported("no energy counter")

    def energy_reading(self) -> EnergyReading:
        """Return the energy counter with the device's own time of the reading, if it has one."""
        return EnergyReading(self.energy_j())

    def busy_pct(self) -> float:
        """Return the share of the recent past in which a kernel ran. Unit: %."""
        raise NotSupported("no busy counter: there is no accelerator", "run on an accelerator")

    def activity_pct(self) -> Mapping[str, float]:
        """Return the activity of units of the chip by name (``sm``, ``tensor``, ``dram``), in %.

        An accumulating counter returns the mean since the previous call, and nothing at the first
        call; other counters return the present value. Further names: ``occupancy`` (warps of the
        multiprocessors), ``gfx`` (AMD's shader engines: time in which a kernel ran).
        """
        raise NotSupported("no activity counters: there is no accelerator", "run on an accelerator")

    def throttle_reasons(self) -> frozenset[str]:
        """Return the reasons for which the clock is below the requested one; empty if it is not.

        Idleness and clocks set by an application do not count.
        """
        raise NotSupported("no throttle reasons are read on this device")

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        """Capture the kernels that `work` launches, and return a function that replays them.

        The replay is queued like other work, without the host's time for each launch.

        Args:
            work: Callable without data-dependent control flow or synchronization; it is called
                before and during the capture.

        Raises:
            Unavailable: The device has no graphs, or `work` cannot be captured.
        """
        raise NotSupported("no device graphs: work runs on the host", "run on an accelerator")

    def temperature_c(self) -> float:
        """Return the temperature of the chip. Unit: °C."""
        raise NotSupported("no temperature sensor is read on this device")

    def clock_mhz(self) -> float:
        """Return the clock of the compute units. Unit: MHz."""
        raise NotSupported("no clock is read on this device")

    def peak_flops(self, dtype: str) -> float:
        """Return the sourced peak rate of dense matrix products of a dtype. Unit: FLOP/s."""
        raise NotSupported(
            f"no sourced {dtype} peak rate for {self.describe().name}",
            "add it to refsys/costs/devices.toml",
        )

    def peak_rates(self) -> Rates:
        """Return the sourced peak rates of memory, exponentials and instructions."""
        raise NotSupported(
            f"no sourced peak rates for {self.describe().name}",
            "add them to refsys/costs/devices.toml",
        )
