"""The errors that the reference system raises on purpose."""


class RefsysError(Exception):
    """Base of the family. The message is one line that names the thing and the way out."""


class ArgumentError(RefsysError, ValueError):
    """An argument has the wrong shape, dtype, device or value."""


class DataError(RefsysError):
    """An input file or record cannot be used. The message starts with its path."""


class DivergedError(RefsysError):
    """Training has come to a loss or a gradient that is not finite."""


class CapacityError(DataError):
    """An example does not fit a batch's sizes."""


class CheckpointError(RefsysError):
    """A checkpoint cannot be read, or belongs to another run."""


class HomeError(RefsysError):
    """No folder for downloads and prepared inputs can be told."""
