"""``foldperf report``."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import options

if TYPE_CHECKING:
    from analysis.page.front import Front

SUMMARY = "write tables, figures and one self-contained HTML page from records"
EXAMPLE = (
    "foldperf report\n"
    "  foldperf report --retrace\n"
    "  foldperf report results/recorded --out paper/ --published\n"
    "  foldperf report results/recorded --paper --out paper/"
)
# Recorded traces of the project, which the findings at full size come from.
_RECORDED = ("paper.jsonl", "predictions.jsonl")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the records and the output folder."""
    parser.add_argument(
        "records", type=Path, nargs="*", help="record files or folders (default: results/runs)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="output folder (default: results/report)"
    )
    parser.add_argument(
        "--published",
        action="store_true",
        help="plot published numbers even if no record is of an accelerator",
    )
    parser.add_argument(
        "--findings",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="recorded traces of the findings at full size "
        f"(default: {' and '.join(_RECORDED)} in results/recorded)",
    )
    parser.add_argument(
        "--retrace",
        action="store_true",
        help="trace the smallest cases of the findings again; status 1 if a count has changed",
    )
    parser.add_argument(
        "--paper",
        action="store_true",
        help="draw the paper's figures alone, as PDF and PNG, from results/recorded "
        "(default folder: results/paper)",
    )
    options.add_results(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the report; print the page's path, and what is missing in the records."""
    if arguments.paper:
        return _write_paper(arguments)
    with options.analysis_packages():
        from analysis.report import write_report
    from bench.run.unmeasured import unmeasured_in

    paths = arguments.records or [arguments.results / "runs"]
    records, damaged = options.readable_records(paths, debug=arguments.debug)
    folder = arguments.out or arguments.results / "report"
    unmeasured = list(map(str, unmeasured_in(paths)))
    tables = [record.as_dict() for record in records]
    front = _front(arguments)
    page = write_report(
        tables,
        folder,
        always_published=arguments.published,
        unmeasured=unmeasured,
        front=front,
    )
    print(page.resolve())
    for line in (*unmeasured, *front.disagreements):
        print(line)
    return 2 if damaged else 1 if front.disagreements else 0


def _front(arguments: argparse.Namespace) -> "Front":
    """Return the findings, with repeated traces if they are asked for.

    Raises:
        UsageError: traces are to be repeated, but no finding has records.
    """
    from analysis.page.front import front_of, retraced
    from analysis.published import FOLDER, read_published
    from bench.errors import UsageError
    from bench.records.reading import read_records

    folder = arguments.results / "recorded"
    files = arguments.findings or [path for name in _RECORDED if (path := folder / name).exists()]
    recorded = {record.run_id: record for record in read_records(files)} if files else {}
    front = front_of([record.as_dict() for record in recorded.values()], read_published(FOLDER))
    if not arguments.retrace:
        return front
    from bench.simulation.retrace import retrace

    cases = [recorded[run_id] for run_id in retraced(front)]
    if not cases:
        raise UsageError(
            f"--retrace: no recorded trace of the full model is in {folder}; "
            "name a file of them with --findings"
        )
    return replace(front, agreements=tuple(retrace(cases)))


def _write_paper(arguments: argparse.Namespace) -> int:
    """Draw the paper's figures; print the folder, and the command for each that lacks records."""
    with options.analysis_packages():
        from analysis.frame import frame
        from analysis.paper.folder import write_paper

    paths = arguments.records or [arguments.results / "recorded"]
    records, damaged = options.readable_records(paths, debug=arguments.debug)
    folder = arguments.out or arguments.results / "paper"
    outcome = write_paper(frame(records), folder)
    print(f"{len(outcome.figures)} figures in {folder.resolve()}")
    for line in outcome.missing:
        print(line)
    return 2 if damaged else 0
