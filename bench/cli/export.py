"""``foldperf export``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import options

if TYPE_CHECKING:
    from bench.records.record import Record

SUMMARY = "write records as files of other tools: asv's dashboard, or one table as CSV or Parquet"
EXAMPLE = (
    "foldperf export asv results/recorded --out results/asv\n"
    "  foldperf export csv results/recorded --out records.csv\n"
    "  foldperf export parquet results/recorded --long --out metrics.parquet"
)
ASV, CSV, PARQUET = "asv", "csv", "parquet"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the format, the records and the output."""
    parser.add_argument(
        "format",
        choices=[ASV, CSV, PARQUET],
        help="asv's files, or a table with a row for each record",
    )
    parser.add_argument(
        "records", type=Path, nargs="*", help="record files or folders (default: results/runs)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="folder of asv's files (default: results/asv, asv's results_dir), or file of the "
        "table (default: results/records.csv, results/records.parquet)",
    )
    parser.add_argument(
        "--long",
        action="store_true",
        help="a row for each metric of each record, parts of metrics included (csv, parquet)",
    )
    options.add_results(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the files and name what was left out."""
    from bench.errors import UsageError

    if arguments.long and arguments.format == ASV:
        raise UsageError("asv's files have no long form: leave out --long, or export csv")
    sources = arguments.records or [arguments.results / "runs"]
    records, damaged = options.readable_records(sources, debug=arguments.debug)
    write = _export_asv if arguments.format == ASV else _export_table
    faults = write(arguments, sources, records)
    return 2 if damaged or faults else 0


def _export_asv(
    arguments: argparse.Namespace, sources: list[Path], records: "list[Record]"
) -> bool:
    """Write asv's files; return whether any could not be written."""
    from bench.asv.export import export
    from bench.errors import UsageError
    from workloads.catalogue import catalogue

    out = arguments.out or arguments.results / "asv"
    done = export(records, out, catalogue())
    left_out = []
    if done.untraceable:
        left_out.append(f"{done.untraceable} of uncommitted source")
    if done.failed:
        left_out.append(f"{done.failed} of cases that did not end well")
    but = f"; records left out: {', '.join(left_out)}" if left_out else ""
    if not done.files and not done.errors:
        raise UsageError(f"{', '.join(map(str, sources))}: no records to export{but}")
    files = "1 file" if len(done.files) == 1 else f"{len(done.files)} files"
    print(f"{done.figures:,} figures in {files} below {out}{but}")
    for error in done.errors:
        options.print_error(error, debug=arguments.debug)
    return bool(done.errors)


def _export_table(
    arguments: argparse.Namespace, sources: list[Path], records: "list[Record]"
) -> bool:
    """Write a table of all records, failed cases included; return False."""
    with options.analysis_packages():
        from analysis.frame import frame
        from analysis.nested import metric_values
        from analysis.table import as_csv, as_parquet, exported
    from bench.errors import StorageError, UsageError
    from refsys.files import write_atomically

    if not records:
        raise UsageError(f"{', '.join(map(str, sources))}: no records to export")
    table = frame(records)
    table = metric_values(table) if arguments.long else exported(table)
    out = arguments.out or arguments.results / f"records.{arguments.format}"
    with options.analysis_packages():
        content = as_csv(table).encode() if arguments.format == CSV else as_parquet(table)
    try:
        write_atomically(out, content)
    except OSError as error:
        raise StorageError(f"{out}: {error.strerror}") from None
    print(f"{len(table):,} rows of {len(records):,} records in {out}")
    return False
