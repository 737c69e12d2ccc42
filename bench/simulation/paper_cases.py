"""Simulated cases of the paper's figures.

The published lengths from 128 to 768 tokens are among `bench.simulation.published_cases`, with the
settings that the cases here share. As a script, append a record of each case:
``python -m bench.simulation.paper_cases --out results/recorded/paper.jsonl``. Records that the file
has are kept, so that an interrupted run continues.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.records.record import Record
from bench.run.sweep import digest
from bench.simulation.predicted import Target, predicted_values, prediction_notes
from bench.simulation.recording import append_records
from bench.simulation.simulated import simulated_record
from bench.simulation.stored import from_bytes, to_bytes
from bench.simulation.traces import Simulated, SimulatedCase, facts_of, trace_of
from refsys.costs.trace import Trace
from refsys.files import write_atomically
from refsys.home import home
from refsys.ops import use_backend
from refsys.options import Value
from workloads.catalogue import catalogue
from workloads.predicted_costs import cost_sources, predicted_costs

_TRAINING: Mapping[str, Value] = {
    "preset": "full",
    "precision": "bfloat16",
    "entry": "synthetic",
    "workers": 0,
    "cycles": 2,
}
_FUSED: Mapping[str, Value] = {**_TRAINING, "backend": "triton"}
_SHARDED: Mapping[str, Value] = {**_FUSED, "shard_parameters": True}
_BLOOM: Mapping[str, Value] = {"preset": "bloom-560m", "precision": "bfloat16"}
_OPERATORS: Mapping[str, Value] = {
    "preset": "full",
    "precision": "bfloat16",
    "backend": "triton",
    "tokens": 768,
}
# Operators that are not fused when one of the ideas is left out.
IDEAS: Mapping[str, tuple[str, ...]] = {
    "fused attention": (
        "triangle_attention",
        "gated_triangle_attention",
        "attention_pair_bias",
        "attention_projection",
    ),
    "fused LayerNorm and linear": (
        "layer_norm_linear",
        "adaptive_layer_norm",
        "gated_linear",
        "pair_bias",
    ),
    "fused transition": ("transition", "conditioned_transition"),
    "fused triangle multiplication": (
        "triangle_multiplication_projection",
        "triangle_multiplication_contraction",
        "triangle_multiplication_epilogue",
    ),
}
_MICROBENCHMARKS: Mapping[str, tuple[int, ...]] = {
    "triangle_attention": (128, 256, 384, 512, 1024, 2048),
    "layer_norm_linear": (60_000, 100_000, 147_456, 200_000),
    "transition": (60_000, 100_000, 150_000, 200_000),
}
# Parts of the activations that are named by the path of their module, as a share of all.
_NAMED_SHARE = 1e-3


class PaperGroup(NamedTuple):
    """Cases of one workload.

    Attributes:
        workload: Name of the workload.
        axes: Axes that the cases share.
        cases: Further axes of each case.
        devices: Names of the simulated devices.
        idea: Key of `IDEAS` that the cases leave out; empty for none.
        with_paths: Whether the activations are noted by the path of their module.
    """

    workload: str
    axes: Mapping[str, Value]
    cases: Sequence[Mapping[str, Value]]
    devices: Sequence[str] = ("h200",)
    idea: str = ""
    with_paths: bool = False


def _tokens(*counts: int) -> list[dict[str, Value]]:
    return [{"tokens": count} for count in counts]


def _sharded(*shapes: tuple[int, int]) -> list[dict[str, Value]]:
    return [{"context_ranks": ranks, "tokens": tokens} for ranks, tokens in shapes]


GROUPS = (
    PaperGroup("transformer", _BLOOM, _tokens(128, 256, 384, 512, 640, 768, 1536, 3072)),
    *(
        PaperGroup(
            "microbenchmarks",
            {"operator": operator},
            [{"length": n, "backend": b} for b in ("reference", "triton") for n in lengths],
        )
        for operator, lengths in _MICROBENCHMARKS.items()
    ),
    PaperGroup(
        "operators",
        _OPERATORS,
        [
            {"operator": operator}
            for operator in (
                *("triangle_attention", "triangle_multiplication_projection"),
                *("triangle_multiplication_contraction", "triangle_multiplication_epilogue"),
                *("transition", "conditioned_transition", "attention_pair_bias"),
                *("outer_product_mean", "pair_weighted_averaging", "layer_norm_linear"),
                *("gated_linear", "adaptive_layer_norm", "dropout_residual", "smooth_lddt"),
            )
        ],
    ),
    # Lengths beyond the published ones: exponents, and the longest on one device.
    PaperGroup("alphafold3", _FUSED, _tokens(1536, 3072, 2240)),
    # Each idea left out of the fused step.
    *(PaperGroup("alphafold3", _FUSED, _tokens(384), idea=idea) for idea in IDEAS),
    PaperGroup("alphafold3", {**_FUSED, "checkpointing": False}, _tokens(384)),
    # Activations by operator, all of them saved; 96 and 192 tokens are published.
    PaperGroup(
        "alphafold3",
        {**_TRAINING, "backend": "reference", "checkpointing": False},
        _tokens(96, 192, 288, 384),
        with_paths=True,
    ),
    # The longest for 64 GB, and strong scaling from 3,072 tokens.
    PaperGroup("alphafold3", _SHARDED, _sharded((16, 3072), (4, 3072), (32, 8640))),
    PaperGroup("alphafold3", _SHARDED, _sharded((8, 4352), (16, 6080), (64, 3072))),
    # Weak scaling: tokens² over ranks are constant.
    PaperGroup("alphafold3", _SHARDED, _sharded((4, 1536), (64, 6144))),
    # The longest for 141 GB.
    PaperGroup("alphafold3", _SHARDED, _sharded((4, 4608), (32, 12864), (8, 6528), (16, 9088))),
)


def paper_records(groups: Sequence[PaperGroup] = GROUPS) -> Iterator[Record]:
    """Yield a record of each case and device."""
    for group in groups:
        workload = catalogue()[group.workload]
        targets = [Target.named(name) for name in group.devices]
        for axes in group.cases:
            case = SimulatedCase(group.workload, workload.configure({**group.axes, **axes}))
            trace = _trace(case, group.idea)
            for target in targets:
                yield _record(group, case, Simulated(trace, facts_of(case)), target)


def _trace(case: SimulatedCase, idea: str) -> Trace:
    """Return the trace of a case, remembered in the cache folder."""
    if not idea:
        return trace_of(case)
    workload = catalogue()[case.workload]
    # The axis `default` makes no choice of its own, so that the outer one stands.
    config = workload.configure({**workload.values(case.config), "backend": "default"})
    plain = dict.fromkeys(IDEAS[idea], "reference")
    name = digest([workload.values(case.config), plain, cost_sources(), torch.__version__])
    path = home() / "traces" / f"{name}.json.gz"
    # A damaged file is replaced.
    with suppress(OSError, ValueError):
        return from_bytes(path.read_bytes())
    with use_backend("triton"), use_backend(**plain):
        content = to_bytes(predicted_costs(workload, config))
    with suppress(OSError):
        write_atomically(path, content)
    return from_bytes(content)


def _record(group: PaperGroup, case: SimulatedCase, simulated: Simulated, target: Target) -> Record:
    """Return the record, with notes on what the figures need beside the metrics."""
    time, energy = target.predict(simulated.trace, case.exchange_chunks)
    notes: dict[str, Any] = {
        **prediction_notes(time),
        "device_flops_per_s": dict(target.machine.flops),
        "device_bytes_per_s": target.machine.bytes_s,
    }
    if group.with_paths:
        notes["activation_bytes_by_path"] = activations_by_path(simulated.trace)
    if group.idea:
        notes["idea_left_out"] = group.idea
        notes["reference_operators"] = list(IDEAS[group.idea])
    record = simulated_record(
        case,
        simulated,
        device=target.recorded(),
        predicted=predicted_values(time, energy),
        notes=notes,
    )
    return _without(record, group.idea) if group.idea else record


def _without(record: Record, idea: str) -> Record:
    """Return a record of a case that its axes do not tell from the fused one."""
    labels = record.workload.labels
    variant = f"{labels['variant']}, without {idea}"
    return replace(
        record,
        cell_id=digest([record.cell_id, idea]),
        key=digest([record.key, idea]),
        workload=replace(record.workload, labels={**labels, "variant": variant}),
    )


def activations_by_path(trace: Trace) -> dict[str, int]:
    """Return the activations at the peak by the path of their module; small ones under no name."""
    paths: Counter[str] = Counter()
    for (state, module, _operator), nbytes in trace.peak.by_origin.items():
        if state in {"activations", "recomputed"}:
            paths[module] += nbytes
    total = paths.total()
    named = {path: n for path, n in paths.items() if path and n >= _NAMED_SHARE * total}
    return {"": total - sum(named.values()), **dict(sorted(named.items()))}


def main(words: Sequence[str] | None = None) -> int:
    """Append records of all cases to a file; return 0, or 2 on an error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="file of records to append to")
    arguments = parser.parse_args(words)
    return append_records(arguments.out, paper_records())


if __name__ == "__main__":
    sys.exit(main())
