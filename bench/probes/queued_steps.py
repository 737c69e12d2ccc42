"""Steps queued one behind the other, without waiting for each.

Waiting after every step lets the device run empty until the host has started the next one: where a
step is short, that is another program than the one which trains. Here the host may be a few steps
ahead and no more, so that the queue, and what waiting work holds in memory, stays bounded.
"""

import math
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol

import torch

from bench.devices import Device
from bench.run.ranks import Ranks

# How far the host may be ahead of the device. Unit: s.
_AHEAD_S = 0.2
# So many steps keep the device busy, however long each is.
_FEWEST_AHEAD = 2
_MOST_EVENTS = 4
_ESTIMATE_S = 0.25


class StepEvent(Protocol):
    """Place in the device's queue, such as `torch.cuda.Event`."""

    def record(self) -> object:
        """Put it at the end of the queue."""

    def synchronize(self) -> object:
        """Wait until the device has reached it."""


def event_maker(device: Device) -> Callable[[], StepEvent] | None:
    """Return what makes events of a device's queue; None if work is done when its call returns."""
    if device.torch_device.type != "cuda":
        return None
    # A host that waits leaves its core to whoever polls the counter.
    make: Any = torch.cuda.Event
    return lambda: make(blocking=True)


class QueuedSteps:
    """Steps that run in rows, each row counted beforehand and waited for once, at its end."""

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
        """Run rows of steps, from one step on, until a row says how long a step takes."""
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
        """Return how many steps take about so long, one at least: rank 0's number on every rank."""
        count = max(1, math.ceil(seconds / self._step_s))
        return round(self._ranks.total(count if self._ranks.rank == 0 else 0))

    def run(self, count: int) -> None:
        """Queue so many steps and wait for the last."""
        ahead = _FEWEST_AHEAD
        if self._step_s:
            ahead = max(ahead, math.ceil(_AHEAD_S / self._step_s))
        # An event for each of many short steps would take the host longer than the step.
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
