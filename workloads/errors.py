"""The errors that workloads raise on purpose."""


class WorkloadError(Exception):
    """A workload or one of its axes is unknown or invalid. The message is one line."""


class UnsupportedError(WorkloadError):
    """This machine, device or software cannot run the case; the message says what it lacks."""
