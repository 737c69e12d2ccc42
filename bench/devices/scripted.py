"""Simulated accelerator: readings of any vendor, with work that runs on the CPU."""

from collections.abc import Callable, Mapping
from threading import Lock
from time import perf_counter, process_time

import torch

from bench.devices.device import (
    Description,
    Device,
    EnergyReading,
    HostStopwatch,
    Stopwatch,
    hashed,
)
from refsys.costs.devices import Rates, listed_peak, listed_rates

NAMES = {"nvidia": "NVIDIA H100 80GB HBM3", "amd": "AMD Instinct MI250X"}
MEMORY = {"nvidia": 85_520_809_984, "amd": 65_520 * 2**20}
# Cores in use above which the process is computing: polling a counter takes some hundredths.
_WORKING = 0.1


class ScriptedDevice(Device):
    """Device whose work runs on the host and whose readings follow from that work.

    Its power is `power_w` while the process computes and `idle_w` while it waits, as judged by the
    CPU time of the last `tick_s`; its energy counter advances every `tick_s`. With ``curve``, the
    power is a function of ``perf_counter`` instead, independent of the process.

    Attributes:
        throttled: Reasons that `throttle_reasons` returns; a test may set them.
        used: Bytes that `used_bytes` returns.
    """

    torch_device = torch.device("cpu")

    def __init__(
        self,
        vendor: str,
        *,
        power_w: float = 300.0,
        idle_w: float = 80.0,
        tick_s: float = 0.1,
        name: str | None = None,
        curve: Callable[[float], float] | None = None,
    ) -> None:
        """Start the device's clock.

        Args:
            vendor: ``nvidia`` or ``amd``.
            power_w: Power under load. Unit: W.
            idle_w: Idle power. Unit: W.
            tick_s: Period of the energy counter. Unit: s.
            name: Name of a listed device; by default one of the vendor's.
            curve: Power as a function of ``perf_counter``, constant within a tick. Unit: W.
        """
        self.vendor, self.name = vendor, name or NAMES[vendor]
        self.power_w, self.idle_w, self.tick_s = power_w, idle_w, tick_s
        self.throttled: frozenset[str] = frozenset()
        self.used = 2**30
        self._curve = curve
        self._lock = Lock()
        self._start = self._last = perf_counter()
        self._sampled = (self._start, process_time())
        self._true_j = self._shown_j = 0.0
        self._shown_s = 0.0
        self._works = False
        self._activity: tuple[float, float] | None = None
        self._working_s = 0.0

    def describe(self) -> Description:
        """See `Device`."""
        identity = hashed(f"scripted {self.vendor}")
        return Description(
            vendor=self.vendor,
            name=self.name,
            kind="cuda",
            memory_bytes=MEMORY[self.vendor],
            uuid_hash=identity,
            driver="scripted",
            power_cap_w=700.0 if self.vendor == "nvidia" else 560.0,
            partition="whole" if self.vendor == "nvidia" else None,
            energy_domain=identity,
            energy_scope="device" if self.vendor == "nvidia" else "module",
        )

    def stopwatch(self) -> Stopwatch:
        """See `Device`."""
        return HostStopwatch()

    def synchronize(self) -> None:
        """See `Device`; the host's work is done when its call returns."""

    def _advance(self) -> None:
        """Account for the time since the last reading; safe to call from any thread."""
        with self._lock:
            self._account()

    def _account(self) -> None:
        now, cpu_s = perf_counter(), process_time()
        if now - self._sampled[0] >= self.tick_s:
            self._works = (cpu_s - self._sampled[1]) / (now - self._sampled[0]) > _WORKING
            self._sampled = (now, cpu_s)
        self._working_s += (now - self._last) * self._works
        position = self._last
        while True:
            tick = int((position - self._start) / self.tick_s + 1e-9) + 1
            boundary = self._start + tick * self.tick_s
            end = min(boundary, now)
            self._true_j += self._power(position, end) * (end - position)
            if boundary > now:
                break
            self._shown_j, self._shown_s = self._true_j, tick * self.tick_s
            position = boundary
        self._last = now

    def _power(self, start: float, end: float) -> float:
        if self._curve:
            return self._curve((start + end) / 2)
        return self.power_w if self._works else self.idle_w

    def energy_j(self) -> float:
        """See `Device`; the value of the counter at the last tick."""
        self._advance()
        return self._shown_j

    def energy_reading(self) -> EnergyReading:
        """See `Device`; AMD's counter has the device's time of its last tick."""
        joules = self.energy_j()
        return EnergyReading(joules, self._shown_s if self.vendor == "amd" else None)

    def used_bytes(self) -> int:
        """See `Device`."""
        return self.used

    def busy_pct(self) -> float:
        """See `Device`."""
        self._advance()
        return 95.0 if self._works else 0.0

    def activity_pct(self) -> Mapping[str, float]:
        """See `Device`; NVIDIA's is a mean since the previous call, AMD's the present value."""
        self._advance()
        if self.vendor == "amd":
            return {"gfx": 95.0, "dram": 40.0} if self._works else {"gfx": 0.0, "dram": 0.0}
        before, self._activity = self._activity, (self._last, self._working_s)
        if before is None or self._last <= before[0]:
            return {}
        share = (self._working_s - before[1]) / (self._last - before[0])
        full = {"sm": 80.0, "tensor": 30.0, "dram": 40.0, "occupancy": 50.0}
        return {unit: share * value for unit, value in full.items()}

    def throttle_reasons(self) -> frozenset[str]:
        """See `Device`."""
        return self.throttled

    def temperature_c(self) -> float:
        """See `Device`."""
        self._advance()
        return 62.0 if self._works else 38.0

    def clock_mhz(self) -> float:
        """See `Device`."""
        self._advance()
        full, idle = (1980.0, 345.0) if self.vendor == "nvidia" else (1700.0, 800.0)
        return full if self._works else idle

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        """See `Device`; replaying calls `work`, which runs synchronously on the host."""
        for _ in range(3):
            work()

        def replay() -> None:
            work()

        return replay

    def peak_flops(self, dtype: str) -> float:
        """See `Device`; the rates are those of the real device."""
        peak = listed_peak(self.name, dtype)
        return super().peak_flops(dtype) if peak is None else peak

    def peak_rates(self) -> Rates:
        """See `Device`; the rates are those of the real device."""
        rates = listed_rates(self.name)
        return super().peak_rates() if rates is None else rates
