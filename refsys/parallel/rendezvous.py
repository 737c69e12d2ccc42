"""Meeting of the ranks of a run: its store, its process group and its monitor."""

import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store, _set_pg_timeout

from refsys.errors import RankError
from refsys.parallel import flight_recorder, monitor
from refsys.parallel.agreement import Agreement
from refsys.parallel.monitor import RankMonitor

# The watchdog of NCCL, which knows no operator, ends a rank this much later than its monitor.
_WATCHDOG_S = 30.0


def meet(device: torch.device, timeout_s: float, dumps: Path | None = None) -> RankMonitor:
    """Join the process group of all ranks, unless it exists, and start this rank's monitor.

    The launcher's variables name the ranks: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.

    Args:
        device: Device of this rank.
        timeout_s: Longest wait for another rank, now and in every collective operation. A group
            and a monitor that exist keep theirs.
        dumps: Folder for dumps of the flight recorder.

    Raises:
        ArgumentError: a rank was started with another number of ranks.
        RankError: a rank has not joined within the timeout; the error names it.
    """
    if not dist.is_initialized():
        flight_recorder.turn_on(dumps)
        rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        store = _open_store(rank, timeout_s)
        roll = Agreement(store, rank, range(count), name="joined", timeout_s=timeout_s)
        roll.check("joining the run", {"WORLD_SIZE": count})
        is_cuda = device.type == "cuda"
        if is_cuda:
            torch.cuda.set_device(device)
        dist.init_process_group(
            "nccl" if is_cuda else "gloo",
            store=store,
            rank=rank,
            world_size=count,
            timeout=group_timeout(device, timeout_s),
            device_id=device if is_cuda else None,
        )
    current = monitor.current()
    if current is None or current.world is not dist.group.WORLD:
        holder = "the launcher" if _has_launcher_store() else "rank 0"
        current = RankMonitor(_get_default_store(), timeout_s, holder=holder)
        monitor.install(current)
    return current


def group_timeout(device: torch.device, timeout_s: float) -> timedelta:
    """Return the timeout of the process groups of a device, within which its monitor acts."""
    return timedelta(seconds=timeout_s + (_WATCHDOG_S if device.type == "cuda" else 0.0))


def limit(group: dist.ProcessGroup, device: torch.device, timeout_s: float) -> None:
    """Set the timeout of a group that was made with the default one."""
    _set_pg_timeout(group_timeout(device, timeout_s), group)


def _has_launcher_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)


def _open_store(rank: int, timeout_s: float) -> dist.Store:
    """Return the store of the run, which rank 0 holds unless the launcher does."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    holds = rank == 0 and not _has_launcher_store()
    try:
        return dist.TCPStore(
            host,
            port,
            is_master=holds,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except dist.DistError as error:
        if holds:
            raise RankError(f"rank 0 cannot open the store of the run: {error}") from None
        holder = "the launcher" if _has_launcher_store() else "rank 0"
        raise RankError(
            f"{holder} is missing: it did not open the store of the run at {host}:{port} within "
            f"{timeout_s:g} s"
        ) from None
