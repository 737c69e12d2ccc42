"""Processes that must not outlive the one that started them, and pools of processes."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when the one that started it ends, however it ends."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        sys.exit("the process that asked for this one is gone")


def run_ranks(ranks: int, command: Sequence[str]) -> int:
    """Run a command on several ranks of this machine with `torchrun`; return its exit status.

    This process is the agent of `torchrun`: signals to it reach the ranks, and when one rank fails
    the others are ended.

    Args:
        ranks: Number of ranks.
        command: Words after ``python``.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    # A port of the system's choice, so that several runs may start at once.
    options = ["--nproc-per-node", str(ranks), "--max-restarts", "0"]
    options += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    try:
        torchrun([*options, "--no-python", sys.executable, *command])
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        # A rank that a signal ended has the negative number of the signal, as in a shell 128 + it.
        return first.exitcode if first.exitcode >= 0 else 128 - first.exitcode
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


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
