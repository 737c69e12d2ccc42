"""Child processes that end with their parent, and pools of processes."""

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
    """Ask the kernel to kill this process when its parent `parent` ends, for whatever reason."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        sys.exit("the parent process has ended")


class ProcessPool(ProcessPoolExecutor):
    """Pool of spawned processes, all started with the first task.

    The standard library starts each process with the task that needs it, while a thread already
    monitors the earlier ones. If one of them dies at that moment, the thread neither terminates the
    new process nor stops waiting for it. (For forked processes CPython avoids the same race by
    starting all of them first.)
    """

    def __init__(
        self,
        workers: int,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        """Create a pool of `workers` processes, each of which calls `initializer` first."""
        super().__init__(workers, get_context("spawn"), initializer, initargs)
        self._safe_to_dynamically_spawn_children = False
