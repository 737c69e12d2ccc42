"""``foldperf frontier``."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from bench.cli import options
from bench.errors import UsageError

if TYPE_CHECKING:
    from bench.frontier.cells import Cell, Space
    from bench.frontier.memory import Memory
    from bench.frontier.runs import CaseRuns

SUMMARY = "find the longest sequence for a machine: predicted by tracing, measured by isolated runs"
EXAMPLE = (
    "foldperf frontier alphafold3-trunk --memory 80 --variants default checkpointing=false\n"
    "  foldperf frontier alphafold3-trunk --preset tiny --device cpu --memory 2 --measure"
)
_UNCHANGED = "default"


class _Parser(argparse.ArgumentParser):
    """Parser whose errors are those of the command."""

    def error(self, message: str) -> NoReturn:
        """Raise `message` as a `UsageError`."""
        raise UsageError(message)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the workload, its axes and the options of the search."""
    parser.add_argument("workload", help="see 'foldperf list'")
    parser.add_argument(
        "axes",
        nargs=argparse.REMAINDER,
        metavar="AXIS=VALUE",
        help="any axis of the workload, also as --AXIS VALUE; the options below may follow",
    )
    _add_options(parser)
    parser.set_defaults(print_help=parser.print_help)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--memory",
        type=_gib,
        metavar="GIB",
        help="memory of each rank; on a CPU the resident memory of its process (default: the "
        "device's)",
    )
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="auto, cpu or cuda for a device of this machine, or one by name, as h200 or mi300x "
        "(default: auto; with --memory alone an accelerator of that memory)",
    )
    parser.add_argument(
        "--context-ranks",
        type=options.at_least(1),
        nargs="+",
        default=[1],
        metavar="P",
        help="numbers of ranks that divide each example (default: 1)",
    )
    parser.add_argument(
        "--variants",
        nargs="+",
        default=[_UNCHANGED],
        metavar="AXIS=VALUE[,AXIS=VALUE...]",
        help=f"variants to compare, each by its axes; {_UNCHANGED!r} changes none",
    )
    parser.add_argument(
        "--measure", action="store_true", help="run cases at the edge, each in its own process"
    )
    parser.add_argument(
        "--tile",
        type=options.at_least(1),
        default=32,
        metavar="TOKENS",
        help="lengths are multiples of it (default: 32)",
    )
    parser.add_argument(
        "--most-tokens",
        type=options.at_least(1),
        default=65_536,
        metavar="TOKENS",
        help="longest sequence of the search (default: 65,536)",
    )
    parser.add_argument(
        "--timeout",
        type=options.seconds,
        default=600.0,
        metavar="SECONDS",
        help="time limit of a case, which then counts as failed (default: 600)",
    )
    parser.add_argument(
        "--retry",
        nargs="+",
        default=[],
        metavar="STATUS",
        help="rerun cases recorded with these statuses",
    )
    options.add_store(parser)
    options.add_results(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Search every cell; status 2 if its shortest case fails, and not for want of memory."""
    if {"-h", "--help"} & set(arguments.axes):
        arguments.print_help()
        return 0
    parser = _Parser(prog="foldperf frontier", add_help=False, allow_abbrev=False)
    _add_options(parser)
    arguments, words = parser.parse_known_args(arguments.axes, arguments)

    from bench.frontier.cells import Frontier, Space
    from bench.frontier.memory import find_memory
    from bench.frontier.records import cell_record, store_cell
    from bench.frontier.runs import CaseRuns, Log
    from workloads.catalogue import catalogue

    _check_statuses(arguments.retry)
    workloads = catalogue()
    space = Space(
        workload=workloads[arguments.workload],
        axes=options.parse_axes(_as_options(words)),
        variants={variant: _axes_of(variant) for variant in arguments.variants},
        ranks=tuple(dict.fromkeys(arguments.context_ranks)),
        tile=arguments.tile,
        most=_most(arguments),
    )
    memory = find_memory(arguments.device, arguments.memory, measured=arguments.measure)
    runs = CaseRuns(
        workload=space.workload,
        memory=memory,
        timeout_s=arguments.timeout,
        results=arguments.results,
        store=_store(arguments),
        catalogue=workloads,
        command=[*options.program(), *arguments.words],
        retry=arguments.retry,
    )
    cells = []
    for cell in Frontier(space, memory, runs, Log().skip).cells(measured=arguments.measure):
        if cell.measured is not None:
            store_cell(cell_record(cell, space, memory), runs)
        cells.append(cell)
    if arguments.json:
        _print_json(cells, space, memory)
    else:
        _print(cells, space, memory, runs)
    return 2 if any(cell.fault for cell in cells) else 0


def _gib(text: str) -> float:
    value = float(text)
    if not 0 < value <= 2**20:
        raise argparse.ArgumentTypeError(f"{text} is not in 0 to {2**20} GiB")
    return value


def _most(arguments: argparse.Namespace) -> int:
    """Return the largest number of tiles."""
    most: int = arguments.most_tokens // arguments.tile
    if not most:
        raise UsageError(
            f"--most-tokens {arguments.most_tokens} is less than --tile {arguments.tile}"
        )
    return most


def _check_statuses(statuses: Sequence[str]) -> None:
    from bench.records.record import STATUSES

    if unknown := set(statuses) - set(STATUSES):
        raise UsageError(f"--retry {sorted(unknown)[0]}: choose one of {', '.join(STATUSES)}")


def _as_options(words: Sequence[str]) -> list[str]:
    """Return axes that are written ``AXIS=VALUE`` as options; values of options are left alone."""
    result: list[str] = []
    is_value = False
    for word in words:
        option = word.startswith("--")
        result.append(word if option or is_value or "=" not in word else f"--{word}")
        is_value = option and "=" not in word
    return result


def _axes_of(variant: str) -> dict[str, object]:
    """Return the axes of a variant.

    Raises:
        UsageError: a part is not AXIS=VALUE.
    """
    if variant == _UNCHANGED:
        return {}
    axes: dict[str, object] = {}
    for part in variant.split(","):
        name, sign, value = part.partition("=")
        if not (name and sign and value):
            raise UsageError(
                f"--variants {variant}: expected AXIS=VALUE[,AXIS=VALUE...] or {_UNCHANGED}"
            )
        axes[name.replace("-", "_")] = value
    return axes


def _store(arguments: argparse.Namespace) -> Path:
    """Return the folder of prepared inputs, which synthetic cases do not read."""
    from refsys.errors import HomeError

    try:
        return options.store(arguments)
    except HomeError:
        return Path(os.devnull)


def _print_json(cells: "Sequence[Cell]", space: "Space", memory: "Memory") -> None:
    options.print_json(
        {
            "workload": space.workload.name,
            "memory": {"name": memory.name, "bytes_per_rank": memory.nbytes},
            "tile_tokens": space.tile,
            "most_tokens": space.most * space.tile,
            "frontier": [
                cell.as_json() | {"config": space.shared_axes(cell.variant, cell.ranks)}
                for cell in cells
            ],
        }
    )


def _print(cells: "Sequence[Cell]", space: "Space", memory: "Memory", runs: "CaseRuns") -> None:
    """Print a line for each cell, then the assumptions."""
    print(
        f"{space.workload.name}: longest sequences in {memory.gib:.4g} GiB for each rank "
        f"({memory.name}), multiples of {space.tile} tokens up to {space.most * space.tile:,}"
    )
    width = max(len("variant"), *(len(cell.variant) for cell in cells))
    print(f"{'variant':<{width}} {'ranks':>5} {'predicted':>10} {'measured':>10}  first failing")
    for cell in cells:
        lengths = [_length(cell, cell.predicted), _length(cell, cell.measured)]
        columns = " ".join(f"{length:>10}" for length in lengths)
        print(f"{cell.variant:<{width}} {cell.ranks:>5} {columns}  {_failure(cell)}".rstrip())
        if cell.unpredicted:
            print(f"  no prediction: {cell.unpredicted}")
        if memory.kind == "cpu" and (checked := _agreement(cell)) is not None:
            print(f"  {checked}")
    baselines = {cell.baseline for cell in cells if cell.baseline}
    for baseline in sorted(baselines, key=lambda each: each.nbytes):
        print(f"baseline {baseline.nbytes / 2**30:.2f} GiB, {baseline.origin}")
    if any(cell.runs for cell in cells):
        print(f"records in {runs.folder}")


def _length(cell: "Cell", edge: object) -> str:
    """Return an edge in tokens; ``≥`` if nothing longer was allowed, ``-`` if there is none."""
    from bench.frontier.search import Edge

    if not isinstance(edge, Edge):
        return "-"
    return f"{'≥ ' if edge.failing is None else ''}{edge.longest * cell.tile:,}"


def _failure(cell: "Cell") -> str:
    """Return how the shortest failing run ended; a peak of a stopped run is a lower bound."""
    if cell.measured is None:
        return ""
    count = len(cell.runs)
    runs = f"{count} run{'s' if count > 1 else ''}"
    if (run := cell.failing_run) is None:
        return f"none; {runs}"
    peak = ""
    if run.peak_bytes is not None:
        sign = "≥ " if run.peak_is_lower_bound else ""
        peak = f", peak {sign}{run.peak_bytes / 2**30:.2f} GiB"
        peak += " (a lower bound)" if run.peak_is_lower_bound else ""
    unsettled = "" if cell.measured.settled else ", between which nothing was tried"
    return f"{run.tokens:,}: {run.status}{peak}{unsettled}; {runs}"


def _agreement(cell: "Cell") -> str | None:
    """Return the predicted and measured memory of the longest case that fits."""
    run = cell.runs.get(cell.measured.longest) if cell.measured else None
    if run is None or run.peak_bytes is None:
        return None
    expected = cell.expected_bytes(cell.measured.longest if cell.measured else 0)
    if expected is None:
        return None
    return (
        f"at {run.tokens:,} tokens {run.peak_bytes / 2**30:.3f} GiB measured, "
        f"{expected / 2**30:.3f} GiB predicted ({expected / run.peak_bytes - 1:+.1%})"
    )
