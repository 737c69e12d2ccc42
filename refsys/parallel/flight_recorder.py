"""Flight recorder of torch: the last collective operations of a rank, for `torchfrtrace`."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

# Operations that the recorder keeps.
_ENTRIES = "2000"
# Variable with the start of the dumps' names; the number of the rank follows.
_PREFIX = "TORCH_FR_DUMP_TEMP_FILE"


def turn_on(folder: Path | None = None) -> None:
    """Turn the recorder on, before any process group exists; variables that are set are kept.

    Args:
        folder: Folder of the dumps; one of this user's among temporary files if None.
    """
    if folder is None:
        folder = Path(tempfile.gettempdir(), f"foldperf-flight-recorder-{os.getuid()}")
    prefix = str(folder.resolve() / "rank_")
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", _ENTRIES)
    os.environ.setdefault(_PREFIX, prefix)
    os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "1")


def dump(rank: int, backend: str) -> Path | None:
    """Write what the recorder has of this rank; return the file, None if there is none.

    Args:
        rank: Number of this rank.
        backend: Backend of the process groups, ``nccl`` or ``gloo``.
    """
    prefix = os.environ.get(_PREFIX)
    functions: Any = torch._C._distributed_c10d
    name = "_dump_nccl_trace" if backend == "nccl" else "_dump_fr_trace"
    read = getattr(functions, name, None)
    if prefix is None or read is None:
        return None
    path = Path(f"{prefix}{rank}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(read())
    except (OSError, RuntimeError):  # the failure that it explains matters more
        return None
    return path
