"""Faults as the command line reports them: one line, and the traceback on request."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence

DEBUG = "--debug"
ENVIRONMENT_VARIABLE = "FOLDPERF_DEBUG"
# Exit status of a command that a signal stopped, as shells have it for SIGINT.
INTERRUPTED = 130


def debug_requested(words: Sequence[str]) -> bool:
    """Return True if tracebacks are requested, by ``--debug`` or ``$FOLDPERF_DEBUG``.

    Reads the words of the command line themselves, since parsing them can be what fails.
    """
    return DEBUG in words or os.environ.get(ENVIRONMENT_VARIABLE, "") not in {"", "0"}


def report(error: BaseException, *, debug: bool) -> None:
    """Print an error as one line on the standard error, under `debug` after its traceback."""
    if debug:
        traceback.print_exception(error)
    print(f"foldperf: {describe(error)}", file=sys.stderr)


def settled(verdict: int, *steps: Callable[[], object], debug: bool) -> int:
    """Take the steps that follow a verdict, and return the exit status.

    Args:
        verdict: Status of what was found.
        steps: Write files, then print. One that fails is reported, and the next are taken.
        debug: Show the traceback of a step that fails.

    Returns:
        `verdict`, but 2 in the place of 0 where a step failed: a regression stays one though it
        could not be written down.
    """
    status = verdict
    for step in steps:
        try:
            step()
        except Exception as error:
            report(error, debug=debug)
            status = status or 2
    return status


def describe(error: BaseException) -> str:
    """Return one line that says what happened; for an unexpected error also how to see where."""
    if isinstance(error, _expected_errors()):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"
    return f"{text}; --debug shows where"


def _expected_errors() -> tuple[type[Exception], ...]:
    """Return the errors that the project raises on purpose; none if it cannot be imported."""
    try:
        from analysis.errors import AnalysisError
        from bench.errors import BenchError
        from refsys.errors import RefsysError
        from workloads.errors import WorkloadError
    except ImportError:
        return ()
    return AnalysisError, BenchError, RefsysError, WorkloadError
