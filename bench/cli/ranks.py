"""Commands that run on several ranks: a command starts itself again on each through `torchrun`."""

import os
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.cli import faults

if TYPE_CHECKING:
    import torch

# Statuses of a launcher or a rank that one of the stop signals ended.
_SIGNALLED = frozenset({128 + signal.SIGINT, 128 + signal.SIGTERM})


def are_started() -> bool:
    """Return whether `torchrun` started this process."""
    return "WORLD_SIZE" in os.environ


def start(count: int, device: str, words: Sequence[str]) -> int:
    """Start the ranks of a command on this machine; return its exit status.

    Args:
        count: Number of ranks.
        device: Choice of ``--device``.
        words: Words of the command.

    Raises:
        UsageError: the machine has fewer accelerators or, without any, fewer cores.
    """
    import torch

    from bench.cgroup import usable_cores
    from bench.errors import UsageError
    from refsys.processes import run_ranks

    devices = 0 if device == "cpu" else torch.cuda.device_count()
    available = devices or usable_cores()
    if count > available:
        kind = "accelerators" if devices else "cores"
        raise UsageError(
            f"{count} ranks: this machine has {available} {kind}; start the ranks of several "
            "machines with torchrun"
        )
    status = run_ranks(count, ["-m", "bench", *words])
    return faults.INTERRUPTED if status in _SIGNALLED else status


def die_with_launcher() -> None:
    """End this process, a rank, with the one that started the ranks."""
    from refsys.processes import LAUNCHER, die_with_parent

    die_with_parent(int(os.environ.get(LAUNCHER, "0")) or os.getppid())


def device(choice: str) -> "torch.device":
    """Return the device of this rank.

    Args:
        choice: Choice of ``--device``.
    """
    from bench.devices import find_device

    return find_device(choice, int(os.environ.get("LOCAL_RANK", "0"))).torch_device
