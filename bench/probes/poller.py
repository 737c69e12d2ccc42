"""Thread that polls a device's energy counter and, at ticks, the reasons for throttling."""

import math
from threading import Event, Thread
from time import perf_counter
from types import TracebackType
from typing import Protocol, Self

from bench.devices import Device, Unavailable
from bench.probes.energy_ticks import TickLog

# Minimum time between readings of the reasons: a counter may tick at every poll. Unit: s.
_REASONS_S = 0.09


class Poller(Protocol):
    """Context manager that polls a counter.

    Attributes:
        log: Ticks so far.
        throttled: (moment of the host's clock, reasons for throttling) pairs.
        error: Error of the counter that ended the polling; None if there was none.
    """

    log: TickLog
    throttled: list[tuple[float, frozenset[str]]]
    error: Unavailable | None

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class CounterPoller:
    """Poller that runs in a thread, on the host's clock."""

    def __init__(self, device: Device, poll_s: float) -> None:
        self._device, self._poll_s = device, poll_s
        self.log = TickLog()
        self.throttled: list[tuple[float, frozenset[str]]] = []
        self.error: Unavailable | None = None
        self._stop = Event()
        self._thread = Thread(target=self._poll, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _poll(self) -> None:
        ask_at = -math.inf
        while not self._stop.is_set():
            before = perf_counter()
            try:
                reading = self._device.energy_reading()
            except Unavailable as error:
                self.error = error
                return
            moment = (before + perf_counter()) / 2
            if self.log.add(moment, reading) and moment >= ask_at:
                ask_at = moment + _REASONS_S
                try:
                    self.throttled.append((moment, self._device.throttle_reasons()))
                except Unavailable:
                    ask_at = math.inf
            self._stop.wait(self._poll_s)
