"""``foldperf report``."""

import argparse
from pathlib import Path

from bench.cli import options

SUMMARY = "write tables, figures and one self-contained HTML page from records"
EXAMPLE = (
    "foldperf report\n"
    "  foldperf report results/recorded --out paper/ --published\n"
    "  foldperf report results/recorded --paper --out paper/"
)


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
    page = write_report(tables, folder, always_published=arguments.published, unmeasured=unmeasured)
    print(page.resolve())
    for line in unmeasured:
        print(line)
    return 2 if damaged else 0


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
