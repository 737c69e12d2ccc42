"""Simulated accelerator with a queue and a clock, which takes no real time.

The host's clock advances when work is launched or waited for; the device executes its queue after
it.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import torch

from bench.devices.device import Description, Device, NotSupported, Stopwatch

REPLAY_HOST_S = 5e-6


@dataclass
class Queue:
    """Clocks of host and device, and launched work."""

    host: float = 0.0
    device_free: float = 0.0
    launches: list[str] = field(default_factory=list)
    captured: list[float] | None = None
    # Spans in which the device works; adjacent spans are merged.
    busy: list[list[float]] = field(default_factory=list)
    most_ahead: float = 0.0

    def launch(self, name: str, host_s: float, device_s: float) -> None:
        """Queue work that takes the given times on host and device. Unit: s."""
        if self.captured is not None:
            self.captured.append(device_s)
            return
        self.launches.append(name)
        self.host += host_s
        begin = max(self.device_free, self.host)
        self.device_free = begin + device_s
        self.most_ahead = max(self.most_ahead, self.device_free - self.host)
        if self.busy and self.busy[-1][1] == begin:
            self.busy[-1][1] = self.device_free
        else:
            self.busy.append([begin, self.device_free])


class QueueStopwatch(Stopwatch):
    """Stopwatch over the device's queue."""

    def __init__(self, queue: Queue) -> None:
        self.queue, self.marks = queue, []

    def mark(self):
        self.marks.append(max(self.queue.host, self.queue.device_free))

    def intervals(self):
        self.queue.host = max(self.queue.host, self.queue.device_free)
        marks, self.marks = self.marks, []
        return [later - earlier for earlier, later in pairwise(marks)]


class QueuedDevice(Device):
    """Device with a queue; counts synchronizations."""

    torch_device = torch.device("cuda", 0)

    def __init__(self, refusal: str = "", most_captured: float = float("inf")) -> None:
        self.queue = Queue()
        self.refusal, self.most_captured = refusal, most_captured
        self.waits = 0

    def clock(self) -> float:
        """Return the host's time, as a replacement of ``perf_counter``."""
        return self.queue.host

    def work(self, host_s: float, device_s: float, name: str = "work"):
        """Return work that takes the given times on host and device. Unit: s."""
        return lambda: self.queue.launch(name, host_s, device_s)

    def describe(self):
        return Description(vendor="none", name="queue", kind="cuda")

    def stopwatch(self):
        return QueueStopwatch(self.queue)

    def synchronize(self):
        self.waits += 1
        self.queue.host = max(self.queue.host, self.queue.device_free)

    def capture(self, work):
        if self.refusal:
            raise NotSupported(self.refusal)
        self.queue.captured = []
        work()
        captured, self.queue.captured = self.queue.captured, None
        if len(captured) > self.most_captured:
            raise NotSupported("out of memory")
        return self.work(REPLAY_HOST_S, sum(captured), "replay")
