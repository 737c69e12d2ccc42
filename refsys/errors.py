"""Exceptions that the reference system raises deliberately."""

import traceback

# Limit of the message of an `UnexpectedError`, characters.
_LONGEST_MESSAGE = 500


class RefsysError(Exception):
    """Base class. The message is one line that states what is wrong and the way out."""


class ArgumentError(RefsysError, ValueError):
    """An argument has the wrong shape, dtype, device or value."""


class DataError(RefsysError):
    """An input file or record cannot be used. The message starts with its path."""


class DivergedError(RefsysError):
    """Training diverged: a loss, a gradient or a position is not finite."""


class RankError(RefsysError):
    """A rank of a run is missing or failed. Every rank raises the same message."""


class UnexpectedError(DataError):
    """An input file on which its reader raised an exception that it does not handle.

    Attributes:
        details: Traceback of that exception; empty if unknown.
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class CapacityError(DataError):
    """An example does not fit the sizes of a batch."""


class CheckpointError(RefsysError):
    """A checkpoint cannot be read, or belongs to another run."""


class HomeError(RefsysError):
    """The folder for downloads and prepared inputs cannot be determined."""


def one_line(text: str) -> str:
    """Return `text` as one line that any terminal can print.

    White space becomes single spaces; control characters, and bytes of a file name that are not
    UTF-8, become escapes.
    """
    words = " ".join(text.split())
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in words
    )


def unexpected_error(subject: object, error: BaseException) -> UnexpectedError:
    """Return an `UnexpectedError` that names a file and the exception its reader raised.

    Args:
        subject: The file; the message starts with it.
        error: The exception; its message becomes one line, its traceback ``details``.
    """
    if isinstance(error, MemoryError):
        reason = "not enough memory to read it"
    elif isinstance(error, RecursionError):
        reason = "nested too deeply to be read"
    else:
        reason = ": ".join(filter(None, (type(error).__name__, str(error))))
    message = one_line(f"{subject}: {reason}")
    details = "".join(traceback.format_exception(error))
    return UnexpectedError(message[:_LONGEST_MESSAGE], details)
