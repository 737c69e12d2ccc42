"""``foldperf compile``: every kernel's resources, or Triton's cache filled."""

import argparse
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import faults, options, warm_cache

if TYPE_CHECKING:
    from bench.compilation.compiler import Compiled

SUMMARY = "compile every kernel for every architecture, without the hardware"
EXAMPLE = (
    "foldperf compile --out compiled\n"
    "  foldperf compile --only triangle_attention --architecture gfx942 --json\n"
    "  foldperf compile --warm --architecture sm_90"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the choice of kernels and architectures, and of the output."""
    parser.add_argument(
        "--architecture",
        action="append",
        metavar="NAME",
        help="sm_80, sm_90, sm_100, gfx90a, gfx942 or gfx950; may be repeated (default: all)",
    )
    parser.add_argument("--only", metavar="TEXT", help="only kernels whose name contains this")
    parser.add_argument(
        "--all",
        action="store_true",
        help="every dtype, head width and shape of tail (default: the full model in bfloat16)",
    )
    parser.add_argument(
        "--jobs",
        type=options.at_least(1),
        metavar="N",
        help="processes (default: cores, 2 at most)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write a record and a figure into this folder"
    )
    options.add_json(parser)
    warm_cache.configure(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compile; return status 0 if every kernel is within the limits, else 1.

    Raises:
        UsageError: an option belongs to the other mode, or matches nothing.
    """
    _check_mode(arguments)
    return warm_cache.run(arguments) if arguments.warm else _compile(arguments)


def _check_mode(arguments: argparse.Namespace) -> None:
    from bench.errors import UsageError

    warming = {
        "--tokens": arguments.tokens,
        "--preset": arguments.preset,
        "--precision": arguments.precision,
        "--operators": arguments.operators,
        "--at": arguments.at,
    }
    checking = {"--all": arguments.all, "--out": arguments.out}
    for option, value in (checking if arguments.warm else warming).items():
        if value:
            raise UsageError(f"{option} goes {'without' if arguments.warm else 'with'} --warm")


def _compile(arguments: argparse.Namespace) -> int:
    from bench.compilation.compiler import compile_all
    from bench.compilation.limits import violations
    from bench.compilation.specimens import specimens
    from bench.errors import UsageError
    from bench.progress import Progress
    from refsys.ops.triton_backend import ARCHITECTURES

    started = datetime.now(UTC)
    architectures = arguments.architecture or ARCHITECTURES
    selected = [
        specimen
        for specimen in specimens(architectures, exhaustive=arguments.all)
        if (arguments.only or "") in specimen.kernel
    ]
    if not selected:
        raise UsageError(f"--only {arguments.only}: no kernel's name contains it")
    with Progress(len(selected), "kernels") as progress:

        def done(compiled: "Compiled") -> None:
            (progress.skip if compiled.cached else progress.finish)(_line(compiled))
            # Several are compiled at once: what counts is the time from one's end to the next's.
            progress.start("compiling")

        kernels = compile_all(selected, options.processes(arguments.jobs, most=2), done)
    broken = [list(violations(compiled)) for compiled in kernels]
    return faults.settled(
        1 if any(broken) else 0,
        lambda: _record(kernels, started, arguments.out),
        lambda: (_print_json if arguments.json else _print)(kernels, broken),
        debug=arguments.debug,
    )


def _record(kernels: "list[Compiled]", started: datetime, folder: Path | None) -> None:
    """Write the record and its figure into the requested folder."""
    from analysis.kernels import draw_kernels
    from bench.compilation.record import RECORD, kernel_record
    from bench.records.record_file import write_alone

    if folder is None:
        return
    record = kernel_record(kernels, started)
    for path in (write_alone(folder / RECORD, record), draw_kernels(record, folder)):
        print(path, file=sys.stderr)


def _title(compiled: "Compiled") -> str:
    specimen = compiled.specimen
    return f"{specimen.kernel} {specimen.architecture} {specimen.dtype}"


def _line(compiled: "Compiled") -> str:
    how = "known" if compiled.cached else f"{compiled.seconds:.1f} s"
    return f"{_title(compiled)}: {how if compiled.resources else 'does not compile'}"


def _print_json(kernels: "list[Compiled]", broken: list[list[str]]) -> None:
    options.print_json(
        [
            asdict(compiled) | {"violations": lines}
            for compiled, lines in zip(kernels, broken, strict=True)
        ]
    )


def _print(kernels: "list[Compiled]", broken: list[list[str]]) -> None:
    heads = "width", "registers", "spilled B", "shared B", "matrix", "atomic", "loop", "occupancy"
    width = max((len(compiled.specimen.kernel) for compiled in kernels), default=0)
    print(f"{'kernel':<{width}} architecture  dtype", *(f"{head:>10}" for head in heads))
    for compiled in kernels:
        specimen, has = compiled.specimen, compiled.resources
        if has is None:
            continue
        cells = (
            specimen.constants.get("WIDTH", "-"),
            has.registers,
            has.spilled_bytes,
            has.shared_bytes,
            sum(has.matrix_instructions.values()),
            sum(has.atomic_instructions.values()),
            "-" if has.loop_instructions is None else has.loop_instructions,
            f"{has.occupancy:.0%}",
        )
        print(
            f"{specimen.kernel:<{width}} {specimen.architecture:<12}  {specimen.dtype:<5}",
            *(f"{cell:>10}" for cell in cells),
        )
    for compiled, lines in zip(kernels, broken, strict=True):
        for line in lines:
            print(f"FAIL {_title(compiled)}: {line}")
