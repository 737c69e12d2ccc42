"""Threads of which one runs at a time, in a fixed order."""

import threading
from collections.abc import Callable


class Stopped(BaseException):
    """End of a thread because another one has failed."""


class Turns:
    """Turn that numbered threads pass on whenever they have to wait.

    Threads that would all run compete for the interpreter's lock, and are woken only to find that
    they must wait on: with 64 of them that takes nearly all of the time. The fixed order makes
    every run the same, and a deadlock is found as soon as no thread can go on.
    """

    def __init__(self, count: int) -> None:
        self._sleeping = [threading.Lock() for _ in range(count)]
        for lock in self._sleeping:
            lock.acquire()
        self._ended: set[int] = set()
        self._steps = 0
        self._failed = False

    def start(self) -> None:
        """Give the first thread the turn."""
        self._sleeping[0].release()

    def begin(self, number: int) -> None:
        """Wait for the first turn of a thread."""
        self._sleeping[number].acquire()
        self._go_on()

    def step(self) -> None:
        """Note that the thread did what another one may wait for."""
        self._steps += 1

    def wait(self, number: int, is_ready: Callable[[], bool], describe: Callable[[], str]) -> None:
        """Let the other threads run until a condition holds.

        Args:
            number: Thread that waits.
            is_ready: Condition, which only other threads change.
            describe: Returns what is waited for.

        Raises:
            RuntimeError: every thread waits, or has ended.
            Stopped: another thread has failed.
        """
        while not is_ready():
            steps = self._steps
            self._wake_next(number)
            self._sleeping[number].acquire()
            self._go_on()
            if steps == self._steps and not is_ready():
                raise RuntimeError(f"rank {number} waits for {describe()}, and no rank can go on")
        self.step()

    def end(self, number: int, *, failed: bool) -> None:
        """Pass the turn on for the last time."""
        self._failed = self._failed or failed
        self._ended.add(number)
        self.step()
        if len(self._ended) < len(self._sleeping):
            self._wake_next(number)

    def _go_on(self) -> None:
        if self._failed:
            raise Stopped

    def _wake_next(self, number: int) -> None:
        count = len(self._sleeping)
        following = ((number + hop) % count for hop in range(1, count + 1))
        self._sleeping[next(other for other in following if other not in self._ended)].release()
