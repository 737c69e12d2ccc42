"""Memory of this process as the kernel counts it, and the C allocator's manners.

glibc keeps freed memory for itself, so that with its defaults the high-water mark of a process
overstates by a sixth to a quarter what the program held. For the memory pass it is told to map
every larger block by itself and to give it back at once. That makes steps slower, so that the timed
pass runs with the thresholds that glibc's own adaptation arrives at.
"""

import ctypes
from pathlib import Path

import torch

from bench.devices.device import NotSupported

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_RETURNING = (64 * 2**10, 64 * 2**10)
# glibc's largest adaptive threshold for mapping, and twice that for trimming.
_KEEPING = (32 * 2**20, 64 * 2**20)


def return_freed_memory(returning: bool) -> bool:
    """Makes the C allocator give freed blocks back at once, or keep them as it usually ends up.

    Returns:
        Whether the C library has such a setting: glibc does, musl does not.
    """
    mmap_threshold, trim_threshold = _RETURNING if returning else _KEEPING
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(
        mallopt(_M_MMAP_THRESHOLD, mmap_threshold) and mallopt(_M_TRIM_THRESHOLD, trim_threshold)
    )


def anonymous_bytes() -> int:
    """Resident memory now that no file backs: data, not code. Unit: B."""
    return _status("RssAnon")


def anonymous_peak_bytes() -> int:
    """High-water mark of resident memory since it was last reset, files apart. Unit: B.

    The kernel keeps the mark of the whole alone. Code that was paged in stays, so that what files
    back now is what they backed at the mark.
    """
    return _status("VmHWM") - _status("RssFile")


def reset_resident_peak() -> None:
    """Sets the high-water mark to what is resident now.

    Raises:
        NotSupported: the kernel does not let this process.
    """
    try:
        _CLEAR_REFS.write_text("5", encoding="utf-8")
    except OSError as error:
        raise NotSupported(
            f"{_CLEAR_REFS} cannot be written: {error.strerror}",
            "run on Linux with /proc mounted and writable",
        ) from None


def touch_libraries() -> None:
    """Makes torch set up its thread pools and kernels, so that they count to the start."""
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
