"""Supervisor of a device check, whose stages run in another process, ended if a stage overruns."""

import fcntl
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from bench.cgroup import usable_cores, usable_memory_bytes
from bench.check_device.plan import NAMES
from bench.check_device.progress import Stages, StageState
from bench.check_device.worker import LOG, LOST_DEVICE, Request
from bench.errors import BenchError, StorageError
from bench.progress import Progress
from bench.run.environment import case_environment
from bench.run.isolation import Ended, run_isolated

COMMAND = (sys.executable, "-m", "bench.check_device.worker")
# Grace after a stage's deadline, in which it may end by itself: a share of its time, and seconds.
_GRACE_SHARE, _GRACE_S, _MOST_GRACE_S = 0.2, 1.0, 15.0
# Processes that may lose the device in one stage before it is given up.
_MOST_LOSSES = 5
_OVERRUN = "overran its deadline"


@dataclass
class Supervisor:
    """Run of a device check.

    Attributes:
        request: Request to the process that runs the stages.
        progress: Gets a line for each stage, and notes in between.
        command: Words that start that process, without the request.
        environment: Variables that it has beside this process's.
    """

    request: Request
    progress: Progress
    command: Sequence[str] = COMMAND
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self) -> dict[str, StageState]:
        """Run the stages that have not come to an end, and return the states of all.

        Raises:
            BenchError: the process ends before its first stage.
            StorageError: the folder cannot be written, or another check writes there.
        """
        folder = Path(self.request.folder)
        with _locked(folder), self.progress:
            states = Stages(folder)
            if (name := states.running()) is not None:
                states.end(name, time.time(), "crash", "its process was ended from outside")
            remaining, losses = list(self.request.stages), 0
            while remaining:
                watch = _Watch(folder, self.progress)
                ended = self._run_process(tuple(remaining), watch)
                watch.poll()
                states.reload()
                name = states.running()
                if name is None:
                    if ended.status or ended.cause:
                        raise BenchError(
                            f"the process of the check ended with {_how(ended)}: "
                            f"{ended.last_line() or 'it printed nothing'}"
                        )
                    break
                remaining = remaining[remaining.index(name) :]
                if ended.status == LOST_DEVICE and losses < _MOST_LOSSES:
                    # A crashed case has a record, so another process begins after it.
                    losses += 1
                    lost = "the device answered no more; another process goes on"
                    states.end(name, time.time(), "crash", lost)
                else:
                    self._note_end(states, name, ended)
                    watch.poll()
                    remaining, losses = remaining[1:], 0
            states.reload()
            return {name: state for name in NAMES if (state := states.get(name)) is not None}

    def _run_process(self, stages: tuple[str, ...], watch: "_Watch") -> Ended:
        request = replace(self.request, stages=stages, parent=os.getpid())
        with tempfile.TemporaryDirectory(prefix="foldperf-check-") as name:
            path = Path(name) / "request.json"
            path.write_text(json.dumps(asdict(request)), encoding="utf-8")
            # The deadlines are those of the stages; what comes before the first has this limit.
            return run_isolated(
                [*self.command, str(path)],
                timeout_s=max(60.0, 2 * (request.end - time.time())),
                memory_limit_bytes=usable_memory_bytes(),
                environment={**case_environment(1, usable_cores()), **self.environment},
                stop=watch.poll,
            )

    @staticmethod
    def _note_end(states: Stages, name: str, ended: Ended) -> None:
        """Store the end of a stage whose process ended."""
        if ended.cause == _OVERRUN:
            states.end(name, time.time(), "timeout", f"{_OVERRUN} and was ended")
            return
        last = ended.last_line()
        reason = f"its process ended with {_how(ended)}" + (f": {last}" if last else "")
        states.end(name, time.time(), "crash", reason)


def _how(ended: Ended) -> str:
    if ended.cause:
        return ended.cause
    return ended.signal_name() if ended.status < 0 else f"status {ended.status}"


class _Watch:
    """Observer of a check's files, which passes lines on and detects a stage that overruns."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self._folder, self._progress = folder, progress
        log = folder / LOG
        self._position = log.stat().st_size if log.exists() else 0
        self._states = Stages(folder)
        self._ended = {
            name for name in NAMES if (s := self._states.get(name)) and s.status != "running"
        }
        self._before = {name: self._states.get(name) for name in self._ended}
        self._running: str | None = None

    def poll(self) -> str | None:
        """Pass new lines on; return the cause for which the process has to end, if any."""
        self._pass_on_log()
        self._states.reload()
        for name in NAMES:
            state = self._states.get(name)
            if state is None or state.status == "running" or state == self._before.get(name):
                continue
            self._before[name] = state
            self._progress.finish(stage_line(name, state))
        running = self._states.running()
        if running is None:
            return None
        if running != self._running:
            self._progress.start(running)
            self._running = running
        state = self._states.get(running)
        assert state is not None
        grace = min(_MOST_GRACE_S, _GRACE_S + _GRACE_SHARE * (state.deadline - state.started))
        return _OVERRUN if time.time() > state.deadline + grace else None

    def _pass_on_log(self) -> None:
        try:
            with (self._folder / LOG).open("rb") as file:
                file.seek(self._position)
                content = file.read()
        except OSError:
            return
        whole = content.rfind(b"\n") + 1
        self._position += whole
        for line in content[:whole].decode("utf-8", "replace").splitlines():
            self._progress.note(f"  {line}")


def stage_line(name: str, state: StageState) -> str:
    """Return the end of a stage in one line."""
    reason = f": {state.reason}" if state.reason else ""
    return f"{state.status:<8} {name} ({state.seconds:.0f} s){reason}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this check.

    Raises:
        StorageError: it cannot be written, or another check holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".check").open("w", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StorageError(f"{folder}: another device check is running here") from None
            yield
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}") from None
