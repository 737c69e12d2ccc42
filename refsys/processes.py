"""Child processes that end with their parent, and pools of processes."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

_PR_SET_PDEATHSIG = 1
# Variable with the number of the process that started the ranks of a run.
LAUNCHER = "FOLDPERF_LAUNCHER"


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent `parent` ends, for whatever reason."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        sys.exit("the parent process has ended")


def run_ranks(ranks: int, command: Sequence[str]) -> int:
    """Run a command on several ranks of this machine with `torchrun`; return its exit status.

    This process is the agent of `torchrun`: signals to it reach the ranks, and when one rank fails
    the others are ended. A rank that a signal killed is named on the standard error.

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
    os.environ[LAUNCHER] = str(os.getpid())
    try:
        torchrun([*options, "--no-python", sys.executable, *command])
    except ChildFailedError as error:
        rank, first = error.get_first_failure()
        if first.exitcode < 0 and -first.exitcode not in {signal.SIGINT, signal.SIGTERM}:
            # It could not say so itself.
            name = signal.Signals(-first.exitcode).name
            print(f"foldperf: rank {rank} was killed by {name}", file=sys.stderr, flush=True)
        # A rank that a signal ended has the negative number of the signal, as in a shell 128 + it.
        return first.exitcode if first.exitcode >= 0 else 128 - first.exitcode
    except SignalException as error:
        return 128 + int(error.sigval)
    finally:
        del os.environ[LAUNCHER]
    return 0


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
