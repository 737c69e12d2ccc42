"""Execution of a command in a process group of its own, with time limit and memory guard."""

import os
import secrets
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.cgroup import KillWatch

_POLL_S = 0.05
_TAIL_BYTES = 16 * 2**10
# Environment variable that identifies the descendants of a command.
_MARK = "FOLDPERF_CASE"
# A process that forks during the search is found in the next round.
_KILL_ROUNDS = 10
_PAGE = os.sysconf("SC_PAGE_SIZE")
# The highest score: if memory runs out, the kernel ends the command and not its parent.
_OOM_SCORE = "1000"


@dataclass(frozen=True, slots=True)
class Ended:
    """End of a command.

    Attributes:
        status: Exit status, negative for a signal.
        cause: None if the command ended by itself, else ``timeout``, ``memory`` or the text of
            `stop`.
        seconds: Duration. Unit: s.
        peak_resident_bytes: Most memory that its processes held together. Unit: B.
        output: End of its output.
        memory_kill: Limit for which the kernel killed one of its processes, in words; empty if it
            killed none.
    """

    status: int
    cause: str | None
    seconds: float
    peak_resident_bytes: int
    output: str
    memory_kill: str = ""

    def last_line(self) -> str:
        """Return the last line of output that is not blank."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""

    def signal_name(self) -> str:
        """Return the name of the signal that ended the command."""
        try:
            return signal.Signals(-self.status).name
        except ValueError:
            return f"signal {-self.status}"


def run_isolated(
    command: Sequence[str],
    *,
    timeout_s: float,
    memory_limit_bytes: int,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    stop: Callable[[], str | None] = lambda: None,
) -> Ended:
    """Run a command to its end or a limit, and leave none of its processes behind.

    Args:
        command: Program and arguments.
        timeout_s: Longest time.
        memory_limit_bytes: Most resident memory, over the process and its descendants.
        environment: Its environment; this process's if None.
        folder: Its working folder.
        stop: Called again and again while it runs; a text ends it, and is the cause.
    """
    start = time.monotonic()
    mark = secrets.token_hex(16)
    kills = KillWatch()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**(os.environ if environment is None else environment), _MARK: mark},
        cwd=folder,
        start_new_session=True,
    )
    with suppress(OSError):
        Path(f"/proc/{process.pid}/oom_score_adj").write_text(_OOM_SCORE, encoding="utf-8")
    tail = _Tail(process)
    cause: str | None = None
    peak = 0
    try:
        while process.poll() is None:
            resident = sum(map(_resident, _family(process.pid)))
            peak = max(peak, resident)
            if resident > memory_limit_bytes:
                cause = "memory"
            elif time.monotonic() - start > timeout_s:
                cause = "timeout"
            cause = cause or stop()
            if cause:
                break
            with suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_S)
    finally:
        # Also after an orderly end: remaining processes must not disturb the next case.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _kill_marked(mark)
    seconds = time.monotonic() - start
    return Ended(process.returncode, cause, seconds, peak, tail.text(), kills.reason())


class _Tail:
    """Reader of a process's output that keeps the end of it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._chunks: deque[bytes] = deque(maxlen=_TAIL_BYTES // 1024)
        self._process = process
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout
        with suppress(OSError, ValueError):
            while chunk := os.read(self._process.stdout.fileno(), 1024):
                self._chunks.append(chunk)

    def text(self) -> str:
        # A process that left the group may hold the pipe open; the tail is not worth waiting for.
        self._thread.join(timeout=2)
        return b"".join(self._chunks).decode(errors="replace")


def _kill_marked(mark: str) -> None:
    """Kill descendants that left the process group: each of them inherited the mark."""
    entry = f"{_MARK}={mark}".encode()
    for _ in range(_KILL_ROUNDS):
        pids = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if entry in path.read_bytes().split(b"\0"):
                    pids.append(int(path.parent.name))
        for pid in pids:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if not pids:
            return


def _family(pid: int) -> list[int]:
    """Return the numbers of a process and its descendants."""
    family, waiting = [], [pid]
    while waiting:
        current = waiting.pop()
        family.append(current)
        # A process may end while its threads are listed.
        with suppress(OSError):
            for path in list(Path(f"/proc/{current}/task").glob("*/children")):
                with suppress(OSError):
                    waiting += [int(child) for child in path.read_text(encoding="utf-8").split()]
    return family


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0
