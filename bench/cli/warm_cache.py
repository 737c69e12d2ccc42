"""``foldperf compile --warm``: Triton's cache, filled for a device that is elsewhere."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import faults, options

if TYPE_CHECKING:
    from bench.compilation.warm import Warmed


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the choice of steps whose kernels are compiled."""
    group = parser.add_argument_group("filling Triton's cache")
    group.add_argument(
        "--warm",
        action="store_true",
        help="compile into Triton's own cache ($TRITON_CACHE_DIR, else ~/.triton/cache) what "
        "training steps and operators launch on --architecture, for a device elsewhere",
    )
    group.add_argument(
        "--tokens",
        type=options.at_least(1),
        nargs="+",
        metavar="N",
        help="crops of the steps (default: one of each kind of length)",
    )
    group.add_argument("--preset", metavar="NAME", help="model size (default: full)")
    group.add_argument(
        "--precision",
        action="append",
        metavar="NAME",
        help="dtype table; may be repeated (default: bfloat16)",
    )
    group.add_argument(
        "--operators", action="store_true", help="single operators, without training steps"
    )
    group.add_argument(
        "--at",
        type=Path,
        metavar="DIR",
        help="absolute path of the cache on the target machine (default: its path here)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Fill the cache; status 0 if it has every kernel, 1 if one does not compile.

    Raises:
        UsageError: no architecture is named, or a requested name does not exist.
    """
    from bench.compilation.compiler import check_triton
    from bench.errors import UsageError

    check_triton()
    if not arguments.architecture:
        raise UsageError("--warm compiles for one device: name its --architecture, as sm_90")
    if arguments.at and not arguments.at.is_absolute():
        raise UsageError(f"--at {arguments.at} is not an absolute path")

    from bench.compilation.launches import TOKENS
    from bench.compilation.relocation import relocate
    from bench.compilation.warm import cache_folder, wanted_launches, warm
    from bench.progress import Progress

    folder = cache_folder()
    relocate(folder)
    kernels: list[Warmed] = []
    for architecture in dict.fromkeys(arguments.architecture):
        launches = {
            key: launch
            for key, launch in wanted_launches(
                architecture,
                arguments.tokens or TOKENS,
                arguments.preset or "full",
                arguments.precision or ["bfloat16"],
                steps=not arguments.operators,
            ).items()
            if (arguments.only or "") in launch.kernel
        }
        if not launches:
            raise UsageError(f"--only {arguments.only}: no kernel's name contains it")
        with Progress(len(launches), "kernels") as progress:

            def done(warmed: "Warmed", architecture: str = architecture) -> None:
                line = f"{warmed.kernel} {architecture}: {_outcome(warmed)}"
                (progress.skip if warmed.hit else progress.finish)(line)
                progress.start("compiling")

            kernels += warm(launches, architecture, options.processes(arguments.jobs, most=2), done)
    if arguments.at:
        relocate(folder, arguments.at)
    return faults.settled(
        1 if any(warmed.error for warmed in kernels) else 0,
        lambda: (_print_json if arguments.json else _print)(kernels, folder, arguments.at),
        debug=arguments.debug,
    )


def _outcome(warmed: "Warmed") -> str:
    if warmed.error:
        return "does not compile"
    return "in the cache" if warmed.hit else "compiled"


def _print_json(kernels: "list[Warmed]", folder: Path, target: Path | None) -> None:
    from bench.compilation.warm import requirements

    options.print_json(
        {
            "folder": str(folder),
            "place": str(target or folder),
            "requires": requirements(),
            "kernels": [asdict(warmed) for warmed in kernels],
        }
    )


def _print(kernels: "list[Warmed]", folder: Path, target: Path | None) -> None:
    from bench.compilation.warm import requirements

    for warmed in kernels:
        if warmed.error:
            print(f"FAIL {warmed.kernel}: {warmed.error}")
    for reason in sorted({warmed.unbuilt for warmed in kernels if warmed.unbuilt}):
        print(f"launchers are left to the device's machine: {reason}", file=sys.stderr)
    hits = sum(warmed.hit for warmed in kernels)
    where = f" to {target}" if target else ""
    print(f"{len(kernels)} variants, {hits} of them in the cache before")
    print(f"carry {folder}{where}, for {requirements()}")
