"""Times of a step's phases, read once at the end of the step.

On an accelerator a phase lies between two events of the stream, so that the host runs ahead of the
device through all phases and waits for it once.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import NamedTuple

import torch


class PhaseTimer(ABC):
    """Timer of phases by name; a name stands for one phase of a step."""

    @abstractmethod
    def mark(self, name: str, *, end: bool) -> None:
        """Note the begin or the end of a phase."""

    @abstractmethod
    def read(self) -> dict[str, float]:
        """Return the seconds of each phase since the last reading, in order; waits for the device.

        The wait is for the last phase, and for the work queued before its end.
        """

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what the block runs or queues."""
        self.mark(name, end=False)
        yield
        self.mark(name, end=True)


class HostTimer(PhaseTimer):
    """Timer of work that is done when its call returns."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._start = 0.0

    def mark(self, name: str, *, end: bool) -> None:
        """See `PhaseTimer`."""
        if end:
            self._seconds[name] = perf_counter() - self._start
        else:
            self._start = perf_counter()

    def read(self) -> dict[str, float]:
        """See `PhaseTimer`; there is nothing to wait for."""
        seconds, self._seconds = self._seconds, {}
        return seconds


class _Events(NamedTuple):
    begin: torch.cuda.Event
    end: torch.cuda.Event


class EventTimer(PhaseTimer):
    """Timer of work queued on the current stream of an accelerator, CUDA's or HIP's."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Reused step after step: a step's are read before the next one begins.
        self._events: dict[str, _Events] = {}
        self._phases: list[str] = []

    def mark(self, name: str, *, end: bool) -> None:
        """See `PhaseTimer`."""
        if name not in self._events:
            begin, finish = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self._events[name] = _Events(begin, finish)
        if end:
            self._phases.append(name)
        self._events[name][end].record(torch.cuda.current_stream(self._device))

    def read(self) -> dict[str, float]:
        """See `PhaseTimer`; events of one stream complete in order."""
        phases, self._phases = self._phases, []
        if not phases:
            return {}
        self._events[phases[-1]].end.synchronize()
        return {
            name: self._events[name].begin.elapsed_time(self._events[name].end) / 1e3
            for name in phases
        }


def phase_timer(device: torch.device) -> PhaseTimer:
    """Return a timer of work on a device."""
    return EventTimer(device) if device.type == "cuda" else HostTimer()
