"""Position of a case on the axes of a sweep, for comparing it with other cases."""

from collections.abc import Mapping
from typing import NamedTuple

from refsys.options import Value
from workloads.workload import Workload

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


def point_of(
    workload: Workload, axes: Mapping[str, Value], ranks: int, replicate: int = 0
) -> Point:
    """Return the position of a case.

    Args:
        workload: Its workload.
        axes: Values of its axes. One that is left out has its default, as in records of earlier
            versions.
        ranks: Number of processes.
        replicate: Number among its like.
    """
    defaults = {axis.name: axis.default for axis in workload.axes}
    usual = {BACKEND: defaults[BACKEND]} if BACKEND in defaults else {}
    values = defaults | dict(axes) | usual
    labels = workload.labels(workload.configure(values))
    names = (str(values[name]) for name, value in defaults.items() if isinstance(value, str | bool))
    return Point(
        workload=workload.name,
        backend=str(axes.get(BACKEND, "")),
        kind=(str(labels.get("series", "")), str(labels.get("variant", "")), " ".join(names)),
        size=float(labels.get("tokens", 0)),
        ranks=ranks,
        replicate=replicate,
    )
