"""``foldperf report``."""

import argparse
from pathlib import Path

from bench.cli import options

SUMMARY = "tables, figures and one self-contained HTML page, from records"
EXAMPLE = "foldperf report\n  foldperf report results/recorded --out paper/ --published"


def configure(parser: argparse.ArgumentParser) -> None:
    """Which records, and where to."""
    parser.add_argument(
        "records", type=Path, nargs="*", help="record files or folders (default: results/runs)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where to (default: results/report)"
    )
    parser.add_argument(
        "--published",
        action="store_true",
        help="draw published numbers beside ours even where no record is of an accelerator",
    )
    options.add_results(parser)


def run(arguments: argparse.Namespace) -> int:
    """Writes the report and prints the page's path."""
    from analysis.report import write_report

    sources = arguments.records or [arguments.results / "runs"]
    records, damaged = options.readable_records(sources, debug=arguments.debug)
    folder = arguments.out or arguments.results / "report"
    page = write_report(records, folder, always_published=arguments.published)
    print(page.resolve())
    return 2 if damaged else 0
