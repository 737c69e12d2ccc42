"""``foldperf check-device``."""

import argparse
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import options

if TYPE_CHECKING:
    from bench.check_device.progress import StageState
    from bench.records.record import Record

SUMMARY = "check a new device in minutes: correctness, kernel times, a full training step"
EXAMPLE = "foldperf check-device --budget 12\n  foldperf check-device --rehearse nvidia"
_STATUS = {"failed": 1, "timeout": 2, "crash": 2}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the budget, the device and the choice of stages."""
    parser.add_argument(
        "--budget",
        type=options.minutes,
        default=12.0,
        metavar="MINUTES",
        help="time budget of all stages (default: 12)",
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto"
    )
    parser.add_argument(
        "--rehearse",
        choices=("nvidia", "amd"),
        help="run the control flow of every stage on the host in place of such a device; the "
        "figures are no measurements",
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="STAGE", help="run these stages alone"
    )
    parser.add_argument(
        "--interpreter",
        action="append",
        default=[],
        metavar="BACKEND=PYTHON",
        help="time a baseline with the Python of its own environment; may be repeated",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the check (default: runs/check-device in the results; for a rehearsal "
        "a temporary folder)",
    )
    options.add_store(parser)
    options.add_results(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the stages; status 1 if a check fails, 2 if a stage crashes or takes too long."""
    from bench.check_device.plan import NAMES
    from bench.check_device.supervisor import Supervisor
    from bench.check_device.worker import Request
    from bench.errors import UsageError
    from bench.progress import Progress

    if unknown := [name for name in arguments.only if name not in NAMES]:
        raise UsageError(f"--only {unknown[0]}: choose one of {', '.join(NAMES)}")
    folder = _folder(arguments)
    request = Request(
        parent=os.getpid(),
        folder=str(folder.absolute()),
        store=str(_store(arguments)),
        device=arguments.device,
        rehearse=arguments.rehearse or "",
        end=time.time() + 60 * arguments.budget,
        stages=tuple(name for name in NAMES if name in (arguments.only or NAMES)),
        interpreters=_interpreters(arguments.interpreter),
    )
    progress = Progress(len(request.stages), "check-device")
    states = Supervisor(request, progress, environment=_environment(arguments, folder)).run()
    records = _records(folder)
    _print(arguments, states, records, folder)
    return max((_STATUS.get(states[n].status, 0) for n in states if n in request.stages), default=0)


def _environment(arguments: argparse.Namespace, folder: Path) -> dict[str, str]:
    """Return the variables of the process that runs the stages, beside this process's."""
    if not arguments.rehearse:
        return {}
    # Kernels are interpreted, tuned options are discarded, and operators are too small for threads.
    home = str(folder.absolute() / "home")
    return {"TRITON_INTERPRET": "1", "FOLDPERF_HOME": home, "OMP_NUM_THREADS": "1"}


def _folder(arguments: argparse.Namespace) -> Path:
    if arguments.out is not None:
        out: Path = arguments.out
        return out
    if arguments.rehearse:
        return Path(tempfile.mkdtemp(prefix=f"foldperf-rehearsal-{arguments.rehearse}-"))
    results: Path = arguments.results
    return results / "runs" / "check-device"


def _store(arguments: argparse.Namespace) -> Path:
    """Return the folder of prepared inputs, which no case of a check reads."""
    from refsys.errors import HomeError

    try:
        return options.store(arguments).absolute()
    except HomeError:
        return Path(os.devnull)


def _interpreters(words: list[str]) -> dict[str, str]:
    """Return the interpreters of baselines.

    Raises:
        UsageError: a word is not BACKEND=PYTHON, or names no backend or no program.
    """
    from bench.errors import UsageError
    from refsys.ops.backend import BASELINES

    interpreters = {}
    for word in words:
        backend, sign, path = word.partition("=")
        if not sign or backend not in BASELINES:
            raise UsageError(
                f"--interpreter {word}: expected BACKEND=PYTHON, BACKEND of {', '.join(BASELINES)}"
            )
        if not os.access(path, os.X_OK) or Path(path).is_dir():
            raise UsageError(f"--interpreter {word}: {path} is not a program")
        interpreters[backend] = str(Path(path).absolute())
    return interpreters


def _records(folder: Path) -> "list[Record]":
    """Return the newest record of each case of the check."""
    from bench.records.reading import read_records

    path = folder / "records.jsonl"
    records = read_records([path]) if path.exists() else []
    newest = {(record.sweep, record.cell_id): record for record in records}
    return list(newest.values())


def _published() -> dict[tuple[str, int], dict[str, float]]:
    """Return published times by quantity and tokens, and by system; none where they cannot be read.

    Checking them needs a package that measuring does not.
    """
    from analysis.errors import AnalysisError
    from analysis.published import FOLDER, read_published

    try:
        all_series = read_published(FOLDER)
    except (ImportError, AnalysisError):
        return {}
    times: dict[tuple[str, int], dict[str, float]] = {}
    for series in all_series:
        for point in series.points:
            if series.axis == "tokens" and point.at and point.value:
                label = f"{series.system}, {series.device}"
                times.setdefault((series.quantity, int(point.at)), {})[label] = point.value
    return times


def _print(
    arguments: argparse.Namespace,
    states: "dict[str, StageState]",
    records: "list[Record]",
    folder: Path,
) -> None:
    from bench.check_device.table import report_lines

    if arguments.json:
        stages = {name: asdict(state) for name, state in states.items()}
        tables = [record.as_dict() for record in records]
        options.print_json({"folder": str(folder), "stages": stages, "records": tables})
        return
    for line in report_lines(states, records, _published()):
        print(line)
    if arguments.rehearse:
        print("\nThis was a rehearsal on the host: no figure above is of a device.")
    if records:
        print(f"\nrecords in {folder / 'records.jsonl'}; foldperf report {folder} plots them")
    sys.stdout.flush()
