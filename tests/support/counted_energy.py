"""Energy counters of known true energy: of a queue in simulated time, and of a seeded run."""

from dataclasses import dataclass, field

import numpy as np

from bench.devices.device import EnergyReading, NotSupported
from bench.probes.energy import Instruments
from bench.probes.energy_ticks import TickLog
from support.queued_device import QueuedDevice


class PoweredDevice(QueuedDevice):
    """Device with one power while it works and another while it is idle."""

    def __init__(self, busy_w=500.0, idle_w=100.0, tick_s=0.1, fails_after=float("inf"), **more):
        super().__init__(**more)
        self.busy_w, self.idle_w, self.tick_s = busy_w, idle_w, tick_s
        self.fails_after = fails_after
        self.reasons = frozenset()
        # Additional energy until a moment, such as that of a warmer chip. Unit: J.
        self.further_j = lambda moment: 0.0

    def energy_at(self, moment):
        """Return the energy until a past moment of the host's clock. Unit: J."""
        busy = sum(min(end, moment) - begin for begin, end in self.queue.busy if begin < moment)
        further = self.further_j(moment)
        return self.idle_w * moment + (self.busy_w - self.idle_w) * busy + further

    def energy_reading(self):
        if self.fails_after < 0:
            raise NotSupported("the counter went away")
        return EnergyReading(self.energy_at(self.queue.host // self.tick_s * self.tick_s))

    def throttle_reasons(self):
        return self.reasons

    def instruments(self, **replacements):
        """Return instruments that measure the device in simulated time."""
        usual = {"now": self.clock, "wait": self.wait, "poll": LazyPoller}
        return Instruments(**usual | {"events": lambda _: lambda: QueueEvent(self)} | replacements)

    def wait(self, seconds):
        self.queue.host += seconds


@dataclass
class QueueEvent:
    """Event in a device's queue."""

    device: QueuedDevice
    at: float = 0.0

    def record(self):
        self.at = self.device.queue.device_free

    def synchronize(self):
        self.device.queue.host = max(self.device.queue.host, self.at)


@dataclass
class LazyPoller:
    """Poller that catches up with the clock when its log is read."""

    device: PoweredDevice
    poll_s: float
    error: NotSupported | None = None
    throttled: list = field(default_factory=list)
    _log: TickLog = field(default_factory=TickLog)
    _next: int = 0

    def __enter__(self):
        self._next = int(self.device.clock() / self.device.tick_s) + 1
        self._log.add(self.device.clock(), self.device.energy_reading())
        return self

    def __exit__(self, *_):
        assert self.log

    @property
    def log(self):
        device = self.device
        while (tick := self._next * device.tick_s + 0.3 * self.poll_s) < device.clock():
            self._next += 1
            if tick > device.fails_after:
                self.error = NotSupported("the counter went away")
                break
            before = EnergyReading(self._log.joules[-1] if self._log.joules else -1.0)
            self._log.add(tick - 0.5 * self.poll_s, before)
            self._log.add(tick + 0.5 * self.poll_s, EnergyReading(device.energy_at(tick)))
            self.throttled.append((tick, device.reasons))
        return self._log


@dataclass
class SeededRun:
    """Polled counter of a run whose power ripples within each step and drifts over the run.

    Attributes:
        start: Start of the window, at the start of a step. Unit: s.
        stop: End of the window, at the end of a step. Unit: s.
        log: Polled ticks.
    """

    start: float
    stop: float
    log: TickLog
    watts: float
    ripple: float
    drift: float
    step_s: float
    idle_tail_s: float = 0.3

    @classmethod
    def draw(cls, seed, tick_s=0.1, own_clock=False):
        """Return a random run: power, steps, ticks, and the moments of polling."""
        random = np.random.default_rng(seed)
        step_s = 10 ** random.uniform(-2.5, 0.3)
        steps = int(np.ceil(random.uniform(2.1, 6) / step_s))
        run = cls(
            *(0.0, steps * step_s, TickLog()),
            *(random.uniform(100, 700), random.uniform(0, 0.3), random.uniform(-4e-3, 4e-3)),
            step_s,
        )
        begin, end = -1.0, run.stop + 0.5
        gaps = tick_s * (1 + 0.02 * random.standard_normal(int((end - begin) / tick_s) + 5))
        moments = begin - random.uniform(0, tick_s) + np.cumsum(gaps)
        run.log.add(begin - 0.002, EnergyReading(run.energy_at(begin - 0.002)))
        for moment in moments[(moments > begin) & (moments < end - 0.03)]:
            # One of ten polls is late, as when another thread holds the interpreter.
            late = random.exponential(0.01 if random.random() < 0.1 else 5e-4)
            gap = 0.002 + late
            after = random.uniform(0, gap)
            last = run.log.joules[-1] if run.log.joules else run.energy_at(begin - 0.002)
            run.log.add(moment + after - gap, EnergyReading(last))
            device_s = 1000 + 1.0001 * moment if own_clock else None
            run.log.add(moment + after, EnergyReading(round(run.energy_at(moment), 3), device_s))
        return run

    def energy_at(self, moment):
        """Return the energy until a moment; the first half of a step has more power. Unit: J."""
        phase = np.mod(moment / self.step_s, 1)
        ripple = self.ripple * self.step_s * (min(phase, 0.5) - max(phase - 0.5, 0))
        return float(self.watts * (moment + ripple + self.drift * moment**2 / 2))

    @property
    def truth(self):
        """True energy of the window. Unit: J."""
        return self.energy_at(self.stop) - self.energy_at(self.start)
