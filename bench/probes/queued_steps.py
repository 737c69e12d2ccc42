"""Queued steps: steps launched without a synchronization after each.

A synchronization after every step leaves the device idle until the host has launched the next one,
which training does not do; for short steps this matters. Here the host may be a few steps ahead
and no more, so that the queue and the memory of pending work stay bounded.
"""

import math
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol

import torch

from bench.devices import Device
from bench.run.ranks import Ranks

# Maximum time by which the host may be ahead of the device. Unit: s.
_AHEAD_S = 0.2
# Minimum number of queued steps, which keeps the device busy for steps of any length.
_FEWEST_AHEAD = 2
_MOST_EVENTS = 4
_ESTIMATE_S = 0.25


class StepEvent(Protocol):
    """Event in the device's queue, such as `torch.cuda.Event`."""

    def record(self) -> object:
        """Append the event to the queue."""

    def synchronize(self) -> object:
        """Wait until the device has reached the event."""


def event_maker(device: Device) -> Callable[[], StepEvent] | None:
    """Return a factory of events of a device's queue; None if work runs synchronously."""
    if device.torch_device.type != "cuda":
        return None
    # A blocking wait leaves the core to the thread that polls the counter.
    make: Any = torch.cuda.Event
    return lambda: make(blocking=True)


class QueuedSteps:
    """Runner of batches of steps, with one synchronization at the end of each batch."""

    def __init__(
        self,
        step: Callable[[], object],
        device: Device,
        ranks: Ranks,
        make_event: Callable[[], StepEvent] | None,
        now: Callable[[], float] = perf_counter,
    ) -> None:
        self._step, self._device, self._ranks = step, device, ranks
        self._make_event, self._now = make_event, now
        self._step_s = 0.0

    def estimate(self) -> None:
        """Run batches of growing size until one is long enough to give the time of a step."""
        count = 1
        while True:
            start = self._now()
            self.run(count)
            seconds = self._now() - start
            self._step_s = max(seconds / count, 1e-7)
            if self._ranks.first(seconds >= _ESTIMATE_S):
                return
            count = min(self.count_for(2 * _ESTIMATE_S), 10 * count)

    def count_for(self, seconds: float) -> int:
        """Return the number of steps, at least 1, for that time: rank 0's number on every rank."""
        count = max(1, math.ceil(seconds / self._step_s))
        return round(self._ranks.total(count if self._ranks.rank == 0 else 0))

    def run(self, count: int) -> None:
        """Queue `count` steps and wait for the last."""
        ahead = _FEWEST_AHEAD
        if self._step_s:
            ahead = max(ahead, math.ceil(_AHEAD_S / self._step_s))
        # For short steps, an event after each would cost the host more than the step.
        stride = max(1, ahead // _MOST_EVENTS)
        events: deque[StepEvent] = deque()
        for number in range(count):
            self._step()
            if self._make_event and number % stride == 0:
                event = self._make_event()
                event.record()
                events.append(event)
                if len(events) * stride > ahead:
                    events.popleft().synchronize()
        self._device.synchronize()
