"""Memory, cores and kills of this process under the kernel's control groups, versions 1 and 2.

A process is bound by the limits of its own group and of every group above it, up to the top of the
mount that it sees. In a container with a namespace of its own that top is the container's group.
``memory.high`` is not counted as a limit: beyond it the kernel slows processes down and ends none.
"""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_ROOT = Path("/")
# Version 1 reports "no limit" as the largest multiple of a page in 63 bits.
_NO_LIMIT = 2**62
_LIMIT_FILES = ("memory.max", "memory.limit_in_bytes")
_KILL_FILES = ("memory.events", "memory.oom_control")


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """Lowest memory limit of a process's control groups.

    Attributes:
        nbytes: The limit. Unit: B.
        group: Folder of the group that has it.
    """

    nbytes: int
    group: Path


def memory_limit(root: Path = _ROOT) -> MemoryLimit | None:
    """Return the lowest limit of this process's groups; None if no group has one.

    Args:
        root: Folder with ``proc`` and the mounts of control groups.
    """
    limits = [
        MemoryLimit(nbytes, group)
        for group in _groups("memory", root)
        for name in _LIMIT_FILES
        if (nbytes := _number(group / name)) is not None and nbytes < _NO_LIMIT
    ]
    return min(limits, key=lambda limit: limit.nbytes, default=None)


def cpu_limit(root: Path = _ROOT) -> float | None:
    """Return the CPU quota of this process's groups in cores; None if no group has a quota."""
    quotas = []
    for group in _groups("cpu", root):
        # Version 2 has both numbers in one file.
        words = _words(group / "cpu.max")
        if not words:
            words = _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")
        if len(words) == 2 and all(word.isdecimal() and int(word) for word in words):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def usable_cores(root: Path = _ROOT) -> int:
    """Cores that this process can keep busy: those it may run on, or its quota, rounded up."""
    allowed = len(os.sched_getaffinity(0))
    quota = cpu_limit(root)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def usable_memory_bytes(root: Path = _ROOT) -> int:
    """Memory that this process can have: the machine's, or its groups' limit. Unit: B."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = memory_limit(root)
    return memory if limit is None else min(memory, limit.nbytes)


class KillWatch:
    """Watch for processes of this process's groups that the kernel kills for lack of memory."""

    def __init__(self, root: Path = _ROOT) -> None:
        """Read the groups' counters of kills."""
        self._root = root
        self._kills = _kills(root)

    def reason(self) -> str:
        """Return the limit for which the kernel killed since the watch began, or an empty text."""
        now = _kills(self._root)
        if not any(count > self._kills.get(group, count) for group, count in now.items()):
            return ""
        limit = memory_limit(self._root)
        if limit is None:
            return "killed by the kernel: the machine ran out of memory"
        size = limit.nbytes / 2**30
        return f"killed by the kernel at the limit of {size:.2f} GiB of the cgroup {limit.group}"


def _kills(root: Path) -> dict[Path, int]:
    """Return the number of processes killed for lack of memory so far, by group."""
    counts = {}
    for group in _groups("memory", root):
        for name in _KILL_FILES:
            words = _words(group / name)
            # Pairs of a name and a number; before Linux 4.13 the counter is missing.
            table = dict(zip(words[::2], words[1::2], strict=False))
            if table.get("oom_kill", "").isdecimal():
                counts[group] = int(table["oom_kill"])
    return counts


@dataclass(frozen=True, slots=True)
class _Mount:
    """One line of ``/proc/self/mountinfo``.

    Attributes:
        top: The group that is mounted.
        folder: Where it is mounted.
        kind: ``cgroup`` or ``cgroup2``.
        controllers: Controllers of version 1.
    """

    top: PurePosixPath
    folder: Path
    kind: str
    controllers: frozenset[str]


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of this process's groups that have a controller, innermost first."""
    paths = _group_paths(root)
    for mount in _mounts(root):
        legacy = mount.kind == "cgroup"
        path = paths.get(controller if legacy else "")
        if path is None or (legacy and controller not in mount.controllers):
            continue
        # For a group outside the mount, the top of the mount is the nearest visible one.
        inner = path.relative_to(mount.top) if path.is_relative_to(mount.top) else PurePosixPath()
        if ".." in inner.parts:
            inner = PurePosixPath()
        for group in (inner, *inner.parents):
            folder = mount.folder / group
            if folder.is_dir():
                yield folder


def _group_paths(root: Path) -> dict[str, PurePosixPath]:
    """Return the group of this process by controller of version 1, or by '' of version 2."""
    paths: dict[str, PurePosixPath] = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, _, location = line.partition(":")
        names, _, path = location.partition(":")
        paths |= {name: PurePosixPath(path) for name in names.split(",") if path}
    return paths


def _mounts(root: Path) -> Iterator[_Mount]:
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        location, source = before.split(), after.split()
        if len(location) > 4 and len(source) > 2 and source[0] in {"cgroup", "cgroup2"}:
            top, folder = map(_unescape, location[3:5])
            controllers = frozenset(source[2].split(","))
            yield _Mount(PurePosixPath(top), root / folder.lstrip("/"), source[0], controllers)


def _unescape(text: str) -> str:
    """Return a path of ``mountinfo``, which has spaces and the like as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _number(path: Path) -> int | None:
    words = _words(path)
    return int(words[0]) if len(words) == 1 and words[0].isdecimal() else None


def _words(path: Path) -> list[str]:
    return [word for line in _lines(path) for word in line.split()]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
