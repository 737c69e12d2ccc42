"""Benchmarks of asv: a class for each workload, a function for each metric; one measurement.

asv collects every public name of this module, so that nothing else may have one. It imports the
module in a server whose forks read the figures, one for each metric and case.
"""

import math as _math
from collections.abc import Callable as _Callable
from typing import Any as _Any

from bench.asv import benchmarks as _benchmarks
from bench.asv import plan as _plan
from bench.errors import BenchError as _BenchError
from bench.records.working_tree import ROOT as _ROOT
from refsys.errors import RefsysError as _RefsysError
from refsys.home import default_store as _default_store
from workloads.catalogue import catalogue as _catalogue
from workloads.errors import WorkloadError as _WorkloadError

try:
    _PLAN = _plan.make_plan(_catalogue())
except (_BenchError, _RefsysError, _WorkloadError) as _error:
    # asv shows what discovery printed; a traceback would hide it.
    raise SystemExit(f"foldperf: {_error}") from None


def _measure(self: object) -> _benchmarks.Figures:
    del self
    return _PLAN.measure(_ROOT / "results", _default_store())


# asv shows this in the place of source code.
_measure.pretty_source = ""  # type: ignore[attr-defined]
_measure.timeout = _PLAN.timeout_s  # type: ignore[attr-defined]


def _reader(workload: str, tracked: _benchmarks.Tracked) -> _Callable[..., float]:
    name = _benchmarks.benchmark(workload, tracked)

    def read(self: object, figures: _benchmarks.Figures, *cell: _Any) -> float:
        del self
        return figures.get(name, {}).get(cell, _math.nan)

    # A dot in it would have asv show the class of a method.
    read.__qualname__ = _benchmarks.PREFIX + tracked.name
    read.unit = tracked.unit  # type: ignore[attr-defined]
    read.pretty_source = _benchmarks.description(workload, tracked)  # type: ignore[attr-defined]
    return read


def _suite(workload: str, cells: list[_benchmarks.Cell]) -> type:
    readers = {
        _benchmarks.PREFIX + tracked.name: _reader(workload, tracked)
        for tracked in _benchmarks.TRACKED.values()
    }
    about = {
        "params": _plan.axes_of(cells),
        "param_names": list(_benchmarks.PARAMETERS),
        "version": _benchmarks.VERSION,
        "setup_cache": _measure,
        "__module__": __name__,
    }
    return type(_benchmarks.group(workload), (), about | readers)


globals().update(
    {
        _benchmarks.group(_workload): _suite(_workload, _cells)
        for _workload, _cells in _PLAN.cells().items()
    }
)
