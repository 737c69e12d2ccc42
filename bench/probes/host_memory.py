"""Memory of this process by the kernel's count, and settings of the C allocator.

glibc caches freed memory, so with its defaults the high-water mark of a process overstates the
program's memory by a sixth to a quarter. For the memory pass it is set to map every larger block
separately and to return it at once. This slows steps down, so the timed pass uses the thresholds
at which glibc's own adaptation arrives, or those that the environment sets.
"""

import ctypes
import os
from pathlib import Path

import torch

from bench.devices.device import NotSupported

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Environment variables by which a user sets the thresholds for mapping and for trimming.
THRESHOLDS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
_RETURNING = (64 * 2**10, 64 * 2**10)
# glibc's largest adaptive threshold for mapping, and twice that for trimming.
_KEEPING = (32 * 2**20, 64 * 2**20)


def return_freed_memory(returning: bool) -> bool:
    """Set the C allocator to return freed blocks at once, or to cache them as it usually does.

    Returns:
        Whether the C library has this setting: glibc does, musl does not.
    """
    mmap_threshold, trim_threshold = _RETURNING if returning else _usual_thresholds()
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(
        mallopt(_M_MMAP_THRESHOLD, mmap_threshold) and mallopt(_M_TRIM_THRESHOLD, trim_threshold)
    )


def _usual_thresholds() -> list[int]:
    """Return the user's thresholds for mapping and trimming, else those of glibc's adaptation."""
    values = [os.environ.get(name, "") for name in THRESHOLDS]
    return [
        int(value) if value.isdecimal() else default
        for value, default in zip(values, _KEEPING, strict=True)
    ]


def file_backed_bytes() -> int:
    """Return the present resident memory of files: code and libraries. Unit: B."""
    return _status("RssFile")


def anonymous_bytes() -> int:
    """Return the present resident memory without file-backed pages. Unit: B."""
    return _status("RssAnon")


def anonymous_peak_bytes() -> int:
    """Return the high-water mark of resident memory since its reset, without files. Unit: B.

    The kernel has a mark of the total only. Code that was paged in stays resident, so the present
    file-backed pages are those at the mark.
    """
    return _status("VmHWM") - _status("RssFile")


def reset_resident_peak() -> None:
    """Reset the high-water mark to the present resident memory.

    Raises:
        NotSupported: The kernel does not permit it.
    """
    try:
        _CLEAR_REFS.write_text("5", encoding="utf-8")
    except OSError as error:
        raise NotSupported(
            f"{_CLEAR_REFS} cannot be written: {error.strerror}",
            "run on Linux with /proc mounted and writable",
        ) from None


def touch_libraries() -> None:
    """Let torch set up its thread pools and kernels, so that they count to the start."""
    x = torch.ones(8, 256, 256, requires_grad=True)
    for _ in range(2):
        y = torch.nn.functional.layer_norm(x @ x[0], (256,)).softmax(-1)
        (y.sum() + torch.einsum("bik,bjk->bij", y, x).sum()).backward()


def _status(field: str) -> int:
    try:
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    raise NotSupported(f"{_STATUS} has no {field}", "run on Linux")
