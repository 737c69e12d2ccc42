"""Simulated cases that correspond to published numbers of other works.

The cases follow from the configurations that the works state; no published number is read. As a
script, append a record of each case: ``python -m bench.simulation.published_cases --out FILE``.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.records.record import Record
from bench.simulation.predicted import Target, predicted_values, prediction_notes
from bench.simulation.recording import append_records
from bench.simulation.simulated import simulated_record
from bench.simulation.traces import SimulatedCase, simulate
from refsys.batch import ATOM_WINDOW
from refsys.options import Value
from workloads.catalogue import catalogue

_FULL = {"preset": "full", "precision": "bfloat16", "entry": "synthetic"}
# Training draws 1 to 4 recycling iterations in both works; 2 are next to the mean.
_TRAINING: Mapping[str, Value] = {**_FULL, "workers": 0, "cycles": 2}
_OPERATOR: Mapping[str, Value] = {
    "operator": "triangle_attention",
    "preset": "full",
    "precision": "bfloat16",
}
_EAGER, _FUSED = "reference", "triton"


class CaseGroup(NamedTuple):
    """Cases of one workload, each on every device.

    Attributes:
        workload: Name of the workload.
        axes: Axes that the cases share.
        cases: Further axes of each case.
        devices: Names of the simulated devices.
    """

    workload: str
    axes: Mapping[str, Value]
    cases: Sequence[Mapping[str, Value]]
    devices: Sequence[str]

    def simulated(self) -> Iterator[SimulatedCase]:
        """Yield the cases, each once for all devices."""
        workload = catalogue()[self.workload]
        for axes in self.cases:
            yield SimulatedCase(self.workload, workload.configure({**self.axes, **axes}))


def _lengths(*tokens: int, backends: Sequence[str] = (_EAGER, _FUSED)) -> list[dict[str, Value]]:
    pairs = itertools.product(tokens, backends)
    return [{"tokens": count, "backend": backend} for count, backend in pairs]


def _with_atoms(tokens: Sequence[int], per_token: int) -> list[dict[str, Value]]:
    """Return cases with a number of atoms for each token, padded to whole windows."""
    return [
        {"tokens": count, "atoms": -(-count * per_token // ATOM_WINDOW) * ATOM_WINDOW}
        for count in tokens
    ]


def _stages() -> list[dict[str, Value]]:
    """Return the stages after the first, which is among the lengths of MegaFold."""
    crops = {"fine_tuning_1": 640, "fine_tuning_2": 768, "fine_tuning_3": 768}
    return [
        {"stage": stage, "tokens": tokens, "backend": backend}
        for stage, tokens in crops.items()
        for backend in (_EAGER, _FUSED)
    ]


GROUPS = (
    # MegaFold and its eager baseline; Protenix's first stage.
    CaseGroup("alphafold3", _TRAINING, _lengths(128, 256, 384), ("h200", "mi250", "a100-80")),
    CaseGroup("alphafold3", _TRAINING, _lengths(448), ("mi250",)),
    CaseGroup("alphafold3", _TRAINING, _lengths(512, 640, 768), ("h200",)),
    # Protenix's other stages.
    CaseGroup("alphafold3", _TRAINING, _stages(), ("a100-80",)),
    # AlphaFold 3: the first pass and 10 recycling iterations; its buckets have 24 atoms a token.
    CaseGroup(
        "alphafold3-inference",
        {**_FULL, "backend": _FUSED, "cycles": 11, "samples": 5},
        _with_atoms((1024, 2048, 3072, 4096, 5120), 24),
        ("h100", "a100-80"),
    ),
    # Protenix: its table states 10 atoms a token.
    CaseGroup(
        "alphafold3-inference",
        {**_FULL, "backend": _FUSED, "cycles": 10, "samples": 5},
        _with_atoms((500, 1000, 2000, 3000, 4000), 10),
        ("a100-80",),
    ),
    # Fold-CP: memory alone, which grows with neither recycling iterations, samples nor steps.
    CaseGroup(
        "alphafold3-inference",
        {**_FULL, "backend": _FUSED, "cycles": 1, "samples": 1, "steps": 2, "chunk_rows": 30},
        ({"tokens": 30_000, "context_ranks": 64},),
        ("b300",),
    ),
    # TurboPairFormer's table of triangle attention, and the implementation that it calls stock.
    CaseGroup("operators", _OPERATOR, _lengths(512, 768, 1024), ("h100",)),
)


def published_records(groups: Sequence[CaseGroup], jobs: int) -> Iterator[Record]:
    """Yield a record of each case and device.

    Args:
        groups: Cases.
        jobs: Processes that trace; one is this process.
    """
    for group in groups:
        cases = list(group.simulated())
        targets = [Target.named(name) for name in group.devices]
        for case, costs in zip(cases, simulate(cases, jobs), strict=True):
            for target in targets:
                time, energy = target.predict(costs.trace, case.exchange_chunks)
                yield simulated_record(
                    case,
                    costs,
                    device=target.recorded(),
                    predicted=predicted_values(time, energy),
                    notes=prediction_notes(time),
                )


def main(words: Sequence[str] | None = None) -> int:
    """Append records of all cases to a file; return 0, or 2 on an error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="file of records to append to")
    parser.add_argument("--jobs", type=int, default=1, help="processes that trace (default: 1)")
    arguments = parser.parse_args(words)
    return append_records(arguments.out, published_records(GROUPS, arguments.jobs))


if __name__ == "__main__":
    sys.exit(main())
