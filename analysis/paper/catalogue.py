"""Table of the paper's figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import kernels, predictions
from analysis.errors import AnalysisError
from analysis.paper import calls, growth, memory, operators, sharding, time
from analysis.paper.paper_cases import PAPER_CASES, PUBLISHED_CASES
from analysis.paper.selection import MissingRecordsError, noted
from analysis.published import FOLDER, read_published
from bench.records.reading import parse_json

# Settings of the systems, for the captions; both have the best that the tracer can follow.
AF3 = (
    "AF3: AlphaFold 3, 368 million parameters, one training step in bfloat16: 1 example, 8 atoms a "
    "token, 1,024 rows of MSA, 48 diffusion samples, 2 recycling iterations, blocks recomputed in "
    "backward; reference is plain PyTorch, fused has this project's kernels."
)
BLOOM = (
    "BLOOM-560M: one training step in bfloat16 on a sequence of as many tokens: fused attention, "
    "chunked loss, fused AdamW, nothing recomputed. Neither is compiled: a trace of shapes does "
    "not show what a compiler fuses."
)
SIMULATED = "Traced numbers are counted in a trace of shapes; predicted ones follow from a model."
PUBLISHED = "Published numbers are MegaFold's, of another implementation; GB is 10⁹ bytes."
KERNELS = Path(__file__).parents[2] / "results" / "recorded" / "kernels" / "kernels.json"
_BOTH = f"{PUBLISHED_CASES} && {PAPER_CASES}"


@dataclass(frozen=True, slots=True)
class PaperFigure:
    """Figure of the paper.

    Attributes:
        name: File name without suffix.
        title: Title in one line.
        caption: Caption: what is plotted, with the settings of all systems.
        command: Command that makes its records.
        draw: Function that returns matplotlib's figure of a DataFrame of records; raises
            `MissingRecordsError` if it lacks them.
        sources: Files, beside the records, that it is drawn from.
    """

    name: str
    title: str
    caption: str
    command: str
    draw: Callable[[pd.DataFrame], Any]
    sources: tuple[Path, ...] = ()


def _compiled_resources(table: pd.DataFrame) -> Any:
    del table
    if not KERNELS.exists():
        raise MissingRecordsError("no such record")
    return kernels.figure_of(parse_json(KERNELS.read_bytes()))


def _predictions(table: pd.DataFrame) -> Any:
    simulated = noted(table[table["sweep"] == "simulation"])
    if not len(simulated):
        raise MissingRecordsError("no such records")
    try:
        pairs = predictions.pairs(simulated["record"], read_published(FOLDER))
    except AnalysisError as error:
        raise MissingRecordsError(str(error)) from None
    return predictions.draw(pairs)


FIGURES: tuple[PaperFigure, ...] = (
    PaperFigure(
        "peak_memory",
        "Peak memory of a training step against its length",
        f"Peak of all tensors. {AF3} {BLOOM} {SIMULATED} {PUBLISHED} Their peaks are those of the "
        "allocator on an H200. A red cross is the first length that ran out of memory.",
        _BOTH,
        memory.peak_memory,
    ),
    PaperFigure(
        "calls_by_operator",
        "Operator calls of a step at 384 tokens, by kind",
        f"Calls of operators without views. {AF3} {BLOOM} {SIMULATED} Published: AlphaFold 3 in "
        "PyTorch as MegaFold's authors profiled it, length not stated.",
        _BOTH,
        calls.calls_by_operator,
    ),
    PaperFigure(
        "memory_at_768",
        "Memory at the peak of a step of 768 tokens, by state",
        f"States of all tensors at the peak. {AF3} {BLOOM} {SIMULATED}",
        _BOTH,
        memory.memory_at_768,
    ),
    PaperFigure(
        "longest_tokens",
        "Longest training step against the number of devices of 64 GB",
        f"{AF3} Sharded: context ranks divide tokens and atoms, parameters are sharded. Lengths "
        "follow from the traced peak nearest to 64 GB, which grows with the square of the length; "
        f"memory beside tensors is left out. Dotted: the first point times √P. {PUBLISHED} "
        "MegaFold's devices are MI250.",
        PAPER_CASES,
        sharding.longest_tokens,
    ),
    PaperFigure(
        "bytes_by_scheme",
        "Bytes that a rank sends for a pair block, by sharding scheme",
        "Forward and backward together, in units of the whole pair representation. Lines are the "
        "formulas of docs/sharding.md, points are volumes measured on real ranks.",
        "PYTHONPATH=.:tests python tests/support/volumes.py",
        sharding.bytes_by_scheme,
        (sharding.DOCUMENT,),
    ),
    PaperFigure(
        "memory_by_state",
        "Memory by state against the length",
        f"States of all tensors at the peak, on one scale. {AF3} {BLOOM} {SIMULATED}",
        _BOTH,
        memory.memory_by_state,
    ),
    PaperFigure(
        "activations_by_operator",
        "Activation memory by operator against the length",
        f"Activations at the peak of a step that saves all of them. {AF3} Here nothing is "
        f"recomputed, and the reference is shown. {SIMULATED} Published: attention over pairs in "
        "MegaFold's baseline.",
        PAPER_CASES,
        memory.activations_by_operator,
    ),
    PaperFigure(
        "iterations",
        "Loading, forward, backward and optimizer over 50 iterations",
        "AlphaFold 3, preset tiny, 64 tokens, float32, on a CPU of 2 cores: measured. Parsed in "
        "each step and cached objects are the conventional pipelines, prepared is this project's. "
        "Forward includes the label permutation, trunk, rollout and diffusion module.",
        "foldperf run iterations && foldperf promote iterations",
        time.iterations,
    ),
    PaperFigure(
        "step_time",
        "Seconds per iteration on an H200 and an MI250",
        f"{AF3} Compiled bound: the predicted reference step without pointwise operators and host "
        "time, which no compiler that keeps the products of matrices can go below. "
        f"{SIMULATED} Predictions assume achieved fractions of data-sheet rates and were not "
        f"measured. {PUBLISHED} A red cross is the first length that ran out of memory.",
        PUBLISHED_CASES,
        time.step_time,
    ),
    PaperFigure(
        "operator_benchmarks",
        "Attention, LayerNorm with linear, and transition at MegaFold's shapes",
        "Forward and backward in bfloat16 on an H200. Attention: 4 examples, 16 heads of width 64; "
        "LayerNorm and linear: 128 to 16 channels; transition: 128 channels, fourfold. Rows share "
        f"a scale. {SIMULATED}",
        PAPER_CASES,
        operators.microbenchmarks,
    ),
    PaperFigure(
        "attention_rate",
        "Rate of attention, forward and backward",
        "FLOPs of forward times 3.5, over the time. Ours: 4 examples, 16 heads of width 64, H200, "
        "predicted. Published: 4 examples, 32 heads of width 64, in comments of MegaFold's code, "
        "device not stated.",
        PAPER_CASES,
        operators.attention_rate,
    ),
    PaperFigure(
        "exponents",
        "Exponents of costs between a length and its double",
        f"Exact: counted in traces, without a fit. {AF3} {BLOOM}",
        _BOTH,
        growth.exponents,
    ),
    PaperFigure(
        "ablation",
        "Memory, launches and time of the fused step without each idea",
        f"384 tokens. {AF3} Each bar leaves one idea out; the operators of it are plain PyTorch. "
        f"Dotted: all ideas. {SIMULATED}",
        _BOTH,
        calls.ablation,
    ),
    PaperFigure(
        "roofline",
        "Roofline of the fused operators on an H200",
        "Forward and backward at 768 tokens, full model, bfloat16. The roof is that of the data "
        "sheet; rates are predicted with assumed achieved fractions, FLOPs and bytes are traced.",
        PAPER_CASES,
        operators.roofline,
    ),
    PaperFigure(
        "energy_per_residue",
        "Predicted energy of a training step per token",
        f"On an H200, from idle and dynamic power. {AF3} {BLOOM} {SIMULATED}",
        _BOTH,
        time.energy_per_residue,
    ),
    PaperFigure(
        "scaling",
        "Strong and weak scaling of the sharded step",
        f"{AF3} Fused and sharded on P H200: 3,072 tokens, and 768 √P tokens. {SIMULATED}",
        PAPER_CASES,
        sharding.scaling,
    ),
    PaperFigure(
        "exchanged_bytes",
        "Bytes that a rank exchanges in a step of 3,072 tokens, by operator",
        f"{AF3} Fused and sharded. {SIMULATED}",
        PAPER_CASES,
        sharding.exchanged_bytes,
    ),
    PaperFigure(
        "frontier",
        "Longest training step against the number of devices, by their memory",
        f"{AF3} Fused and sharded; lengths as in the figure of the longest step. {SIMULATED}",
        PAPER_CASES,
        sharding.frontier,
    ),
    PaperFigure(
        "batch_time",
        "Time of a batch by path of the pipeline",
        "Batches of 384 tokens for the full model, built by one process on a CPU of 2 cores: "
        "medians of four structures with their intervals of 96 %, measured.",
        "foldperf run pipeline && foldperf promote pipeline",
        time.batch_time,
    ),
    PaperFigure(
        "compiled_resources",
        "Registers, shared memory and occupancy of each kernel by architecture",
        "Compiled without a device.",
        "foldperf compile",
        _compiled_resources,
        (KERNELS,),
    ),
    PaperFigure(
        "predictions",
        "Predicted against published numbers",
        "Every published number that a simulated case corresponds to; see docs/predictions.md for "
        "the settings. Dotted: a factor of 2.",
        PUBLISHED_CASES,
        _predictions,
    ),
)


@cache
def _by_name() -> Mapping[str, PaperFigure]:
    return {figure.name: figure for figure in FIGURES}


def figure_named(name: str) -> PaperFigure:
    """Return a figure by its name.

    Raises:
        AnalysisError: No figure has that name.
    """
    figure = _by_name().get(name)
    if figure is None:
        raise AnalysisError(f"no figure is named {name!r}; choose of {', '.join(_by_name())}")
    return figure
