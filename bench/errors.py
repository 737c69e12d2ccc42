"""Errors that the harness raises on purpose."""


class BenchError(Exception):
    """Base of the family. The message is one line that names the thing and the way out."""


class UsageError(BenchError):
    """The request cannot be met: an unknown name, a malformed file."""


class StorageError(BenchError):
    """Results cannot be written or read."""


class GitError(BenchError):
    """Git is not installed, or refuses to answer; the message ends with its own words."""
