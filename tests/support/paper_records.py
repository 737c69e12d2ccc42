"""Records of a sharded step, made from recorded ones of one rank, for figures that need them."""

import copy
import functools
import json
from pathlib import Path

from analysis.frame import frame

RECORDED = Path(__file__).parents[2] / "results" / "recorded"
FILES = ("predictions", "paper", "iterations-2-core-cpu", "pipeline-2-core-cpu")
# Context ranks and tokens.
SHAPES = (
    *((1, 768), (1, 1280), (1, 1536), (1, 3072), (4, 1536), (4, 2560), (4, 3072)),
    *((16, 3072), (16, 5120), (64, 3072), (64, 6144)),
)


@functools.cache
def recorded():
    """Return all recorded runs that the figures are drawn from."""
    paths = [RECORDED / f"{name}.jsonl" for name in FILES]
    return tuple(
        json.loads(line)
        for path in paths
        if path.exists()
        for line in path.read_text(encoding="utf-8").splitlines()
    )


@functools.cache
def recorded_table():
    """Return the recorded runs, with those of sharded steps, as a DataFrame."""
    return frame([*recorded(), *sharded(recorded())])


def fused_step(records, tokens=768):
    """Return the fused training step of the full model on a simulated H200."""
    return next(
        record
        for record in records
        if record["workload"]["name"] == "alphafold3"
        and record["devices"][0]["name"].startswith("NVIDIA H200")
        and {"backend": "triton", "tokens": tokens, "checkpointing": True}.items()
        <= record["workload"]["config"].items()
        and not record["notes"].get("idea_left_out")
    )


def sharded(records):
    """Return made-up steps whose memory and time are those of one rank over the ranks."""
    one = fused_step(records)
    return [_sharded(one, ranks, tokens) for ranks, tokens in SHAPES]


def _sharded(record, ranks, tokens):
    record = copy.deepcopy(record)
    workload = record["workload"]
    workload["config"] |= {"context_ranks": ranks, "tokens": tokens, "shard_parameters": ranks > 1}
    workload["labels"] |= {"tokens": tokens}
    workload["ranks"] = ranks
    name = f"{ranks:04x}{tokens:08x}"
    record |= {"cell_id": name.ljust(20, "0"), "run_id": name.ljust(32, "0")}
    record["breakdown"]["collective_bytes"] = {"triangle_attention": 2**32, "transition": 2**30}
    for metric in ("peak_tracked_bytes", "predicted_step_time_s"):
        record["metrics"][metric]["value"] *= (tokens / 768) ** 2 / ranks
    return record
