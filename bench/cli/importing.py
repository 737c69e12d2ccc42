"""``foldperf import``."""

import argparse
from pathlib import Path

from bench.cli import options

SUMMARY = "import figures of another harness as records: pytest-benchmark"
EXAMPLE = "foldperf import pytest-benchmark operators.json"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the format and the files."""
    parser.add_argument("format", choices=["pytest-benchmark"], help="harness that wrote the files")
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="JSON file of the harness"
    )
    options.add_results(parser)


def run(arguments: argparse.Namespace) -> int:
    """Append the records that are not there yet; a file that cannot be read is named."""
    from bench.errors import UsageError
    from bench.records.pytest_benchmark import SWEEP, read_records
    from bench.records.record_file import RECORDS, RecordFile

    records, failed = [], 0
    for path in arguments.files:
        try:
            records += options.checked(read_records, path)
        except UsageError as error:
            options.print_error(error, debug=arguments.debug)
            failed += 1
    if failed and not records:
        return 2
    path = arguments.results / "runs" / SWEEP / RECORDS
    with RecordFile(path).locked() as file:
        recorded = {record.run_id for record in file.records()}
        new = {r.run_id: r for r in records if r.run_id not in recorded}
        for record in new.values():
            file.append(record)
    print(f"{len(new)} records added to {path}")
    return 2 if failed else 0
