"""Processes that must not outlive the one that started them, and pools of processes."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when the one that started it dies, however it dies."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        sys.exit("the process that asked for this one is gone")


class ProcessPool(ProcessPoolExecutor):
    """Pool of spawned processes, all of which are started with the first task.

    The library starts each with the task that needs it, while a thread already watches those
    before. If one dies in that moment, the thread neither ends the next one nor stops waiting for
    it (CPython starts forked processes first, because of the same race).
    """

    def __init__(
        self,
        workers: int,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        """Prepare a pool of so many processes; `initializer` is called in each."""
        super().__init__(workers, get_context("spawn"), initializer, initargs)
        self._safe_to_dynamically_spawn_children = False
