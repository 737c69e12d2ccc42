"""The command line: one file for each subcommand. The only place that imports ``analysis``.

A command module has ``SUMMARY``, ``EXAMPLE``, ``configure`` for its arguments and ``run``, which
returns the exit status: 0 done, 1 a regression, 2 bad input or a fault, 3 ambiguous.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from bench.cli.library_caches import provide_library_caches

# Subcommand -> module. A module named `list` would hide the built-in in this package.
COMMANDS = {
    "doctor": "doctor",
    "fetch": "fetch",
    "prepare": "prepare",
    "train": "train",
    "learn": "learn",
    "fold": "fold",
    "list": "listing",
    "describe": "describe",
    "run": "run",
    "compile": "compile",
    "tune": "tune",
    "gate": "gate",
    "report": "report",
    "export": "export",
    "import": "importing",
    "promote": "promote",
    "stamp": "stamp",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand and returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser, commands = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.command is None:
        parser.print_help()
        return 2
    try:
        provide_library_caches()
        return int(commands[chosen.command].run(chosen))
    except KeyboardInterrupt:
        print("foldperf: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has had enough; the interpreter must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except _expected_errors() as error:
        print(f"foldperf: {error}", file=sys.stderr)
        return 2
    except Exception:
        # The interpreter's own status, 1, would be taken for a regression.
        traceback.print_exc()
        return 2


def _parser() -> tuple[argparse.ArgumentParser, dict[str, Any]]:
    parser = argparse.ArgumentParser(
        prog="foldperf",
        description="Where memory, time and energy go in AlphaFold-3-style training.",
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands = {}
    for name, place in COMMANDS.items():
        module = import_module(f"bench.cli.{place}")
        subparser = subparsers.add_parser(
            name,
            help=module.SUMMARY,
            description=module.SUMMARY[0].upper() + module.SUMMARY[1:] + ".",
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.configure(subparser)
        commands[name] = module
    return parser, commands


def _expected_errors() -> tuple[type[Exception], ...]:
    from analysis.errors import AnalysisError
    from bench.errors import BenchError
    from refsys.errors import RefsysError
    from workloads.errors import WorkloadError

    return AnalysisError, BenchError, RefsysError, WorkloadError
