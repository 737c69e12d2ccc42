"""The device interface, and the errors that vendor libraries' errors become."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from time import perf_counter
from typing import Any, Literal, NamedTuple

import torch

from bench.devices.peaks import Rates
from bench.errors import BenchError


class Unavailable(BenchError):
    """A quantity that this device, driver or user cannot have.

    Attributes:
        unlock: What would make it available; empty if nothing would.
    """

    def __init__(self, reason: str, unlock: str = "") -> None:
        super().__init__(reason)
        self.unlock = unlock


class LibraryMissing(Unavailable):
    """The vendor's library or its Python binding is not there."""


class NotSupported(Unavailable):
    """The device or its driver has no such counter."""


class NoPermission(Unavailable):
    """The user may not read it."""


class DeviceLost(Unavailable):
    """The device stopped answering."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """Identity and state of a device as a record holds them; None is unknown.

    Attributes:
        partition: Part of a divided device that torch sees, or the name of the undivided state.
        energy_domain: Name of the energy counter; devices that share one have the same.
        energy_scope: ``module`` where the counter includes more than this device: the other die, or
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
        device_s: Time of the reading by the device's own clock, since an arbitrary zero; None where
            the counter comes without one. Unit: s.
    """

    joules: float
    device_s: float | None = None


def hashed(identity: object) -> str | None:
    """Hash a serial number or the like: records tell devices apart and name none of them."""
    return None if identity is None else hashlib.sha256(str(identity).encode()).hexdigest()[:16]


class Stopwatch(ABC):
    """Marks in the device's stream of work, and the times between them."""

    @abstractmethod
    def mark(self) -> None:
        """Note this moment."""

    @abstractmethod
    def intervals(self) -> list[float]:
        """Return the seconds between successive marks since the last call; wait for the device."""


class HostStopwatch(Stopwatch):
    """Stopwatch of work that is done when its call returns."""

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
    """Stopwatch of work that is queued on the current stream, CUDA's or HIP's."""

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
    """One device. Every reading raises `Unavailable` where it cannot be had."""

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
        """Return the energy counter with the device's own time of the reading, where it has one."""
        return EnergyReading(self.energy_j())

    def busy_pct(self) -> float:
        """Return the share of the recent past in which a kernel ran. Unit: %."""
        raise NotSupported("no busy counter: there is no accelerator", "run on an accelerator")

    def activity_pct(self) -> Mapping[str, float]:
        """Return the activity of units of the chip by name (``sm``, ``tensor``, ``dram``), in %.

        A counter that accumulates gives the mean since the previous call, and nothing at the first;
        one that does not gives the present value. Other names: ``occupancy`` (warps of the
        multiprocessors), ``gfx`` (AMD's shader engines: time in which a kernel ran).
        """
        raise NotSupported("no activity counters: there is no accelerator", "run on an accelerator")

    def throttle_reasons(self) -> frozenset[str]:
        """Return the reasons for which the clock is below what was asked for; empty if it is not.

        An idle device, and a clock that an application set, are no reasons.
        """
        raise NotSupported("no throttle reasons are read on this device")

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        """Capture the kernels that `work` starts, and return what starts them again.

        The replay is queued like any other work, without the host's time of each launch.

        Args:
            work: Callable without data-dependent control flow or synchronization; it is called
                before and during the capture.

        Raises:
            Unavailable: the device has no graphs, or `work` cannot be captured.
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
            "add it to bench/devices/peaks.toml",
        )

    def peak_rates(self) -> Rates:
        """Return the sourced peak rates of memory, exponentials and instructions."""
        raise NotSupported(
            f"no sourced peak rates for {self.describe().name}",
            "add them to bench/devices/peaks.toml",
        )
