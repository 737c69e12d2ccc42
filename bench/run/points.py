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
        kind: Series, variant, and every choice of the workload's that is a name (as an entry, a
            crop, a preset) or a yes or no: what tells cases apart beside backend and sizes.
        size: Problem size, as figures are plotted against it.
        ranks: Number of processes.
        replicate: Number among its like.
    """

    workload: str
    backend: str
    kind: tuple[str, str, str]
    size: float
    ranks: int
    replicate: int = 0

    @property
    def pair(self) -> tuple[str, str]:
        """Workload and backend."""
        return self.workload, self.backend

    @property
    def group(self) -> "Point":
        """Return the point without its backend: cases of a group are compared with each other."""
        return self._replace(backend="")


def point_of(workload: Workload, config: Config, ranks: int, replicate: int = 0) -> Point:
    """Return the position of a case.

    Args:
        workload: Its workload.
        config: Its axes; what is left out has its default, as in records of earlier versions.
        ranks: Number of processes.
        replicate: Number among its like.
    """
    defaults = {axis.name: axis.default for axis in workload.axes}
    usual = {BACKEND: defaults[BACKEND]} if BACKEND in defaults else {}
    values = defaults | config | usual
    labels = workload.labels(values)
    names = (str(values[name]) for name, value in defaults.items() if isinstance(value, str | bool))
    return Point(
        workload=workload.name,
        backend=str(config.get(BACKEND, "")),
        kind=(str(labels.get("series", "")), str(labels.get("variant", "")), " ".join(names)),
        size=float(labels.get("tokens", 0)),
        ranks=ranks,
        replicate=replicate,
    )
