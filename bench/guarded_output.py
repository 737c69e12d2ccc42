"""Standard streams that cannot stop the program.

Output can fail: the reader leaves, the disk is full, a descriptor is closed, the locale lacks a
character. Work and verdict do not depend on it. The first failed write ends a stream, and later
output is dropped. The exit status does not change, except that a full disk or another device error
turns status 0 into 2, because the output is incomplete.
"""

import io
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, redirect_stderr, redirect_stdout, suppress
from types import TracebackType
from typing import Any, TextIO, cast

FAULT = 2
_STANDARD_DESCRIPTORS = (0, 1, 2)


class GuardedStream:
    """Text stream whose writes never raise.

    Characters that the encoding lacks are written as backslash escapes. Whatever else is asked of
    it, such as `fileno`, is the guarded stream's.

    Attributes:
        error: Why output was lost, None if it was not or if its reader has left.
    """

    def __init__(
        self, stream: TextIO | None, on_error: Callable[[OSError], object] = lambda error: None
    ) -> None:
        """Guard a stream.

        Args:
            stream: The stream; None, as Python has it for a closed descriptor, drops everything.
            on_error: Called once, when output is lost for another reason than a reader's leaving.
        """
        self.error: OSError | None = None
        self._stream: TextIO = io.StringIO() if stream is None else stream
        self._on_error = on_error
        self._open = stream is not None

    def write(self, text: str) -> int:
        """Write `text` if that can be, and return its length."""
        self._attempt(lambda: self._write(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each line."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand on what is buffered."""
        self._attempt(self._stream.flush)

    def isatty(self) -> bool:
        """Return True if it is a terminal that still takes output."""
        with suppress(OSError, ValueError):
            return self._open and self._stream.isatty()
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def _attempt(self, action: Callable[[], object]) -> None:
        if not self._open:
            return
        try:
            action()
        except ConnectionError:  # the reader of a pipe or a socket has left
            self._end()
        except OSError as error:
            self.error = error
            self._end()
            self._on_error(error)
        except ValueError:  # somebody closed the stream
            self._end()

    def _end(self) -> None:
        self._open = False
        # Buffered output is discarded: the interpreter would fail on it at exit, with a
        # status of its own, and child processes would meet the same descriptor.
        if isinstance(self._stream, io.TextIOWrapper):
            with suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)


def guarded(stream: TextIO | None) -> TextIO:
    """Return `stream` as one whose writes never raise."""
    return cast(TextIO, stream if isinstance(stream, GuardedStream) else GuardedStream(stream))


class GuardedOutput(AbstractContextManager["GuardedOutput"]):
    """Guards ``sys.stdout`` and ``sys.stderr`` inside its block."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._stderr = GuardedStream(sys.stderr)
        self._stdout = GuardedStream(sys.stdout, self._report)

    def __enter__(self) -> "GuardedOutput":
        _open_missing_descriptors()
        self._stack.enter_context(redirect_stderr(cast(TextIO, self._stderr)))
        self._stack.enter_context(redirect_stdout(cast(TextIO, self._stdout)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def settled(self, status: int) -> int:
        """Flush both streams and return the status to exit with.

        Args:
            status: The verdict's status. It stays, but 0 becomes 2 if the standard output could
                not be written for another reason than that its reader has left.
        """
        self._stdout.flush()
        self._stderr.flush()
        return FAULT if status == 0 and self._stdout.error else status

    def _report(self, error: OSError) -> None:
        reason = error.strerror or type(error).__name__
        self._stderr.write(f"foldperf: the standard output cannot be written: {reason}\n")


def _open_missing_descriptors() -> None:
    """Point closed standard descriptors at the null device.

    Otherwise the next file that is opened gets the number, and what a library or a child process
    prints goes into that file.
    """
    for descriptor in _STANDARD_DESCRIPTORS:
        try:
            os.fstat(descriptor)
        except OSError:
            with suppress(OSError):
                null = os.open(os.devnull, os.O_RDWR)
                if null != descriptor:
                    os.dup2(null, descriptor)
                    os.close(null)
                os.set_inheritable(descriptor, True)
