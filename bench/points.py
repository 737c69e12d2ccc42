"""Position of a case on the axes of a sweep, for comparing it with other cases."""

from typing import NamedTuple

from workloads.workload import Config, Workload

# Axis by which workloads name the implementation that runs.
BACKEND = "backend"


class Point(NamedTuple):
    """Position of a case.

    Attributes:
        workload: Name of its workload.
        backend: Implementation; empty for a workload that has none to choose.
        kind: Series and variant of the workload, which say everything but backend and size.
        size: Problem size, as figures are plotted against it.
        ranks: Number of processes.
        replicate: Number among its like.
    """

    workload: str
    backend: str
    kind: tuple[str, str]
    size: float
    ranks: int
    replicate: int = 0

    @property
    def pair(self) -> tuple[str, str]:
        """Workload and backend."""
        return self.workload, self.backend

    @property
    def group(self) -> "Point":
        """The point without its backend: cases of a group are compared with each other."""
        return self._replace(backend="")


def point_of(workload: Workload, config: Config, ranks: int, replicate: int = 0) -> Point:
    """Return the position of a case.

    Args:
        workload: Its workload.
        config: Every axis of the workload.
        ranks: Number of processes.
        replicate: Number among its like.
    """
    usual = {axis.name: axis.default for axis in workload.axes if axis.name == BACKEND}
    labels = workload.labels(config | usual)
    return Point(
        workload=workload.name,
        backend=str(config.get(BACKEND, "")),
        kind=(str(labels.get("series", "")), str(labels.get("variant", ""))),
        size=float(labels.get("tokens", 0)),
        ranks=ranks,
        replicate=replicate,
    )
