"""Catalogue of workloads: the project's own and those of other packages.

A package offers a workload with an entry point in the group ``foldperf.workloads`` whose value is a
`Workload` class. The project's own are listed here, so that a bare copy of the source works
without being installed.
"""

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from workloads.workload import Catalogue, Workload

GROUP = "foldperf.workloads"
_OWN = {
    "alphafold3": "workloads.alphafold3:AlphaFold3Workload",
    "alphafold3-inference": "workloads.inference:InferenceWorkload",
    "alphafold3-trunk": "workloads.trunk:TrunkWorkload",
    "transformer": "workloads.transformer:TransformerWorkload",
    "operators": "workloads.operators:OperatorsWorkload",
    "microbenchmarks": "workloads.microbenchmarks:MicrobenchmarksWorkload",
    "device-rates": "workloads.calibration:CalibrationWorkload",
    "pipeline": "workloads.pipeline:PipelineWorkload",
}


@cache
def catalogue() -> Catalogue:
    """Return all workloads by name, and the reason for which each broken one cannot be loaded."""
    values = dict(_OWN)
    values.update({point.name: point.value for point in entry_points(group=GROUP)})
    workloads: dict[str, Workload] = {}
    broken: dict[str, str] = {}
    for name, value in sorted(values.items()):
        try:
            workloads[name] = _load(value)
        except Exception as error:
            broken[name] = f"{type(error).__name__}: {error}"
    return Catalogue(workloads, broken)


def _load(value: str) -> Workload:
    module, _, attribute = value.partition(":")
    workload = getattr(import_module(module), attribute)()
    if not isinstance(workload, Workload):
        raise TypeError(f"{value} is not a Workload")
    return workload
