"""Progress of long work, with an estimate of the time left.

On a terminal with `rich` installed it is a live bar; everywhere else plain lines. The work
continues when the output is closed.
"""

import sys
import time
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Any, TextIO

from bench.guarded_output import guarded


class Progress(AbstractContextManager["Progress"]):
    """Counter of finished pieces of work out of a total, which prints one line about each."""

    def __init__(self, total: int, what: str, stream: TextIO | None = None) -> None:
        self._total, self._what = total, what
        self._stream = guarded(stream or sys.stderr)
        self._done = self._timed = 0
        self._spent = 0.0
        self._started = time.monotonic()
        self._expected: float | None = None
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Progress":
        if self._stream.isatty() and self._total:
            with suppress(ImportError):
                self._start_bar()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, line: str) -> None:
        """Print a line that is about no piece of work."""
        if self._bar:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            print(line, file=self._stream, flush=True)

    def expect(self, seconds_left: float) -> None:
        """Set the time left to the caller's estimate, in place of the mean of finished pieces."""
        self._expected = seconds_left

    def start(self, title: str) -> None:
        """Note that a piece of work begins."""
        self._started = time.monotonic()
        if self._bar:
            self._bar.update(self._task, description=title[:60])

    def finish(self, line: str) -> None:
        """Note that the piece of work is done; `line` describes its outcome."""
        now = time.monotonic()
        self._timed += 1
        self._spent += now - self._started
        self._started = now
        self.skip(line)

    def skip(self, line: str) -> None:
        """Note a piece of work that was skipped; it does not count in the mean time."""
        self._done += 1
        if self._bar:
            self.say(line)
            self._bar.update(self._task, completed=self._done)
        else:
            has_estimate = self._timed and self._done < self._total
            time_left = f", {span(self.seconds_left())} left" if has_estimate else ""
            self.say(f"[{self._done}/{self._total}{time_left}] {line}")

    def note(self, line: str) -> None:
        """Print a line about the piece of work that is under way."""
        if self._bar:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            print(line, file=self._stream, flush=True)

    def seconds_left(self) -> float:
        """Return the time left: as expected, else by the mean time of the pieces done. Unit: s."""
        if self._expected is not None:
            return self._expected
        return self._spent / max(self._timed, 1) * (self._total - self._done)

    def _start_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(file=self._stream),
        )
        self._bar.start()
        self._task = self._bar.add_task(self._what, total=self._total)


def span(seconds: float) -> str:
    """Return seconds in words: 7 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
