"""Command line: one file for each subcommand. The only place that imports ``analysis``.

A command module has ``SUMMARY``, ``EXAMPLE``, ``configure`` for its arguments and ``run``, which
returns the exit status: 0 done, 1 a regression, 2 bad input or a fault, 3 ambiguous. One with
``TAKES_AXES`` reads words that are not its own from ``arguments.others``.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from bench.cli import faults
from bench.cli.library_caches import provide_library_caches
from bench.errors import UsageError
from bench.guarded_output import GuardedOutput
from refsys.call_stack import call_with_room

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
    "simulate": "simulate",
    "frontier": "frontier",
    "plan": "plan",
    "compile": "compile",
    "tune": "tune",
    "check-device": "check_device",
    "gate": "gate",
    "report": "report",
    "export": "export",
    "import": "importing",
    "promote": "promote",
    "stamp": "stamp",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status.

    Any fault, from importing the commands on, is one line on the standard error and status 2: the
    interpreter's own status, 1, would be taken for a regression. ``--debug`` adds the traceback.
    The status does not depend on who reads the output (`bench.guarded_output`).

    Args:
        argv: The words after the program's name; those of the process if None.

    Raises:
        SystemExit: ``--help`` was asked for, or the words cannot be parsed.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    with GuardedOutput() as output:
        try:
            status = call_with_room(_status, words)
        except SystemExit as ended:
            raise SystemExit(output.settled(int(ended.code or 0))) from None
        return output.settled(status)


def _status(words: Sequence[str]) -> int:
    """Parse the words, run the command, report a fault; the exit status."""
    debug = faults.debug_requested(words)
    try:
        parser, commands = _parser()
        arguments, others = parser.parse_known_args(words)
        if others and not getattr(commands.get(arguments.command), "TAKES_AXES", False):
            parser.error(f"unrecognized arguments: {' '.join(others)}")
        arguments.others = others
        arguments.words = list(words)
        arguments.debug = debug = arguments.debug or debug
        if arguments.command is None:
            parser.print_help()
            return 2
        provide_library_caches()
        return _run(commands[arguments.command], arguments)
    except KeyboardInterrupt:
        print("foldperf: interrupted", file=sys.stderr)
        return faults.INTERRUPTED
    except SystemExit:
        raise
    except BaseException as error:
        faults.report(error, debug=debug)
        return 2


def _run(command: Any, arguments: argparse.Namespace) -> int:
    try:
        os.getcwd()
    except OSError as error:  # torch's libraries end the process where they meet it
        raise UsageError(
            f"the working folder cannot be used ({error.strerror}): change to another"
        ) from None
    try:
        return int(command.run(arguments))
    except SystemExit as ended:
        # Raised by a library: its status has another meaning.
        raise RuntimeError(f"a library ended the command with {ended.code!r}") from ended


def _parser() -> tuple[argparse.ArgumentParser, dict[str, Any]]:
    parser = argparse.ArgumentParser(
        prog="foldperf",
        description="Where memory, time and energy go in AlphaFold-3-style training.",
    )
    _add_debug(parser, default=False)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands = {}
    for name, module_name in COMMANDS.items():
        module = import_module(f"bench.cli.{module_name}")
        subparser = subparsers.add_parser(
            name,
            help=module.SUMMARY,
            description=module.SUMMARY[0].upper() + module.SUMMARY[1:] + ".",
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        # Without a default of its own, it leaves alone what stood before the command.
        _add_debug(subparser, default=argparse.SUPPRESS)
        module.configure(subparser)
        commands[name] = module
    return parser, commands


def _add_debug(parser: argparse.ArgumentParser, default: bool | str) -> None:
    parser.add_argument(
        faults.DEBUG,
        action="store_true",
        default=default,
        help=f"show the traceback of an error (also ${faults.ENVIRONMENT_VARIABLE}=1)",
    )
