"""Longest examples whose training step fits in the memory of 1 to 32 ranks, traced.

The full preset in bfloat16 with fused kernels and the other options of a default run; on several
ranks the parameters are sharded. A length fits if the traced peak of the first rank, which has as
many tokens as any, does not exceed the memory of a device.

As a script, print the longest multiple of 64 tokens on each number of ranks, and fail if a length
grows by less than 0.9·√ranks:
``PYTHONPATH=.:tests python tests/support/longest_steps.py [--offload] [RANKS ...]``.
"""

import sys
from collections.abc import Callable, Mapping
from math import floor, inf, sqrt
from time import process_time

import torch

from refsys.config import ModelConfig
from refsys.costs.prediction import predict
from refsys.costs.trace import Trace
from refsys.run_config import RunConfig, run_config
from refsys.training.build import build_abstract_trainer, build_training
from workloads.structure_training import TrainingProgram

TILE = 64
RANKS = (1, 4, 8, 16, 32)
# Bytes of a device.
MEMORIES = (141e9, 64e9)
# Part of the ideal growth of the length that must be reached.
LEAST = 0.9


def configuration(tokens: int, ranks: int, **options: object) -> RunConfig:
    """Return the run: the first stage's samples and MSA depth, parameters sharded."""
    chosen = {
        "model": "alphafold3",
        "preset": "full",
        "tokens": tokens,
        "atoms": 8 * tokens,
        "cycles": 1,
        "sample_cycles": False,
        "entries": ("synthetic",),
        "precision": "bfloat16",
        "backend": "triton",
        "context_ranks": ranks,
        "shard_parameters": ranks > 1,
    }
    return run_config(**(chosen | options)).resolved()


def traced_step(
    config: RunConfig, model: ModelConfig | None = None, *, shorten: bool = True
) -> Trace:
    """Return the trace of the first rank's step, optimizer included."""

    def build() -> TrainingProgram:
        program = TrainingProgram(
            build_abstract_trainer(config, build_training(config, model=model))
        )
        program.run("data")
        program.phases = tuple(p for p in program.phases if p not in program.host_phases)
        return program

    return predict(build, ranks=config.parallel.context_ranks, shorten=shorten)


def longest(
    peak: Callable[[int], int], nbytes: float, start: int, known: dict[int, int] | None = None
) -> int:
    """Return the largest multiple of `TILE` at which an increasing function is at most `nbytes`.

    The function is known to fit there. One multiple more exceeds `nbytes` as interpolated between
    the known lengths next to the edge, linearly in the square of the length.

    Args:
        peak: Bytes at a number of tokens.
        nbytes: Bytes that are available.
        start: First guess, a multiple of `TILE`.
        known: Bytes by number of tokens, which values of `peak` are added to.
    """
    points = {} if known is None else known
    tokens = _edge(points, nbytes) if len(points) > 1 else start
    while tokens and points.get(tokens, inf) > nbytes:
        points[tokens] = peak(tokens)
        tokens = _edge(points, nbytes)
    return tokens


def _edge(points: dict[int, int], nbytes: float) -> int:
    """Return the interpolated edge, within the bounds that the points prove."""
    fits = max((n for n, used in points.items() if used <= nbytes), default=0)
    exceeds = min((n for n, used in points.items() if used > nbytes), default=0)
    (n, used), *others = sorted(points.items(), key=lambda point: abs(point[1] - nbytes))
    slope = (used - others[0][1]) / (n**2 - others[0][0] ** 2) if others else used / n**2
    guess = floor(sqrt(max(n**2 + (nbytes - used) / slope, 0)) / TILE) * TILE
    # Two points at least: without a constant part the law is known to the tile only.
    guess = max(guess, fits if others or not fits else fits + TILE)
    return min(guess, exceeds - TILE) if exceeds else guess


class Peaks:
    """Peaks of the steps on one number of ranks, by their number of tokens.

    Attributes:
        traces: Traces of the steps so far.
        known: Their peaks. Unit: B.
    """

    def __init__(self, ranks: int, **options: object) -> None:
        self.ranks, self.options = ranks, options
        self.traces: dict[int, Trace] = {}
        self.known: dict[int, int] = {}

    def __call__(self, tokens: int) -> int:
        """Return the peak at a number of tokens."""
        start = process_time()
        config = configuration(tokens, self.ranks, **self.options)
        self.traces[tokens] = trace = traced_step(config)
        print(
            f"# {self.ranks} ranks, {tokens} tokens: {trace.peak.nbytes / 1e9:.2f} GB, "
            f"{process_time() - start:.0f} CPU-s",
            flush=True,
        )
        return trace.peak.nbytes


def composition(trace: Trace, shard: float) -> str:
    """Return the peak by state, in parts of a shard of the pair representation."""
    states = sorted(trace.peak.by_state.items(), key=lambda item: -item[1])
    return ", ".join(f"{state} {nbytes / shard:.2f}" for state, nbytes in states)


def largest_origins(trace: Trace, shard: float, count: int = 12) -> list[str]:
    """Return the largest parts of the peak by state, module and operator, in shards."""
    origins = sorted(trace.peak.by_origin.items(), key=lambda item: -item[1])[:count]
    return [f"{nbytes / shard:.2f} {' '.join(origin)}" for origin, nbytes in origins]


def start_on(ranks: int, nbytes: float, lengths: Mapping[tuple[int, float], int]) -> int:
    """Return a first guess: the longest example of the fewer ranks before, scaled."""
    before = [(count, length) for (count, memory), length in lengths.items() if memory == nbytes]
    count, length = before[-1] if before else (1, 2048)
    return floor(length * sqrt(ranks / count) / TILE) * TILE


def main() -> int:
    """Print a table of longest examples; return 1 if a length grows too little."""
    torch.set_num_threads(1)
    options = {"offload_checkpoints": True} if "--offload" in sys.argv else {}
    ranks = [int(text) for text in sys.argv[1:] if text.isdigit()] or list(RANKS)
    lengths: dict[tuple[int, float], int] = {}
    holds = True
    for count in ranks:
        peaks = Peaks(count, **options)
        for nbytes in MEMORIES:
            length = longest(peaks, nbytes, start_on(count, nbytes, lengths), peaks.known)
            lengths[count, nbytes] = length
            growth = length / lengths[ranks[0], nbytes]
            least = LEAST * sqrt(count / ranks[0])
            holds &= growth >= least
            trace, shard = peaks.traces[length], length**2 * 256 / count
            print(
                f"{count} ranks of {nbytes / 1e9:.0f} GB: {length} tokens, {growth:.3f} times, "
                f"{growth / sqrt(count / ranks[0]):.3f} of ideal; host "
                f"{trace.host_bytes / 1e9:.1f} GB; in shards: {composition(trace, shard)}",
                flush=True,
            )
            for line in largest_origins(trace, shard):
                print(f"    {line}", flush=True)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
