"""The errors that the reference system raises on purpose."""

import traceback

# Characters of an unexpected error's line.
_LONGEST_MESSAGE = 500


class RefsysError(Exception):
    """Base of the family. The message is one line that names the thing and the way out."""


class ArgumentError(RefsysError, ValueError):
    """An argument has the wrong shape, dtype, device or value."""


class DataError(RefsysError):
    """An input file or record cannot be used. The message starts with its path."""


class DivergedError(RefsysError):
    """Training has come to a loss or a gradient that is not finite."""


class UnexpectedError(DataError):
    """A file on which its reader failed in a way that it does not foresee.

    Attributes:
        details: The traceback, empty where there is none.
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class CapacityError(DataError):
    """An example does not fit a batch's sizes."""


class CheckpointError(RefsysError):
    """A checkpoint cannot be read, or belongs to another run."""


class HomeError(RefsysError):
    """No folder for downloads and prepared inputs can be told."""


def one_line(text: str) -> str:
    """Return a text as one line that any terminal prints.

    White space becomes single spaces; control characters, and bytes of a file name that are not
    UTF-8, become escapes.
    """
    words = " ".join(text.split())
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in words
    )


def unexpected_error(subject: object, error: BaseException) -> UnexpectedError:
    """Return the named error of a file for an exception that its reader does not foresee.

    Args:
        subject: The file, with which the message starts.
        error: The exception, which becomes one line. Its traceback is kept in ``details``.
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
