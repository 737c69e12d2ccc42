"""``foldperf export``."""

import argparse
from pathlib import Path

from bench.cli import options

SUMMARY = "write records as files of other tools: asv's dashboard"
EXAMPLE = "foldperf export asv results/recorded --out results/asv"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the tool, the records and the output folder."""
    parser.add_argument("format", choices=["asv"], help="tool that reads the files")
    parser.add_argument(
        "records", type=Path, nargs="*", help="record files or folders (default: results/runs)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="output folder (default: results/asv, asv's results_dir)",
    )
    options.add_results(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the files and name what was left out."""
    from bench.asv.export import export
    from bench.errors import UsageError
    from workloads.catalogue import catalogue

    sources = arguments.records or [arguments.results / "runs"]
    records, damaged = options.readable_records(sources, debug=arguments.debug)
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
    return 2 if damaged or done.errors else 0
