"""``foldperf promote``."""

import argparse
from pathlib import Path

from bench.cli import options

SUMMARY = "copy records that are evidence into the tracked results"
EXAMPLE = "foldperf promote results/runs/demo/records.jsonl --name demo-laptop"


def configure(parser: argparse.ArgumentParser) -> None:
    """Which records, under which name."""
    parser.add_argument("records", type=Path, nargs="+", help="record files or folders")
    parser.add_argument("--name", required=True, help="name of the file they go to")
    parser.add_argument(
        "--allow-dirty", action="store_true", help="also take records of uncommitted source"
    )
    options.add_results(parser)


def run(arguments: argparse.Namespace) -> int:
    """Appends records that are not there yet; refuses those that no commit can reproduce."""
    from bench.errors import UsageError
    from bench.record import read_records
    from bench.record_file import RecordFile

    if not arguments.name or Path(arguments.name).name != arguments.name:
        raise UsageError(f"--name {arguments.name}: expected a file name without folders")
    records = read_records(arguments.records)
    if not records:
        raise UsageError(f"{', '.join(map(str, arguments.records))}: no records")
    untraceable = [r for r in records if r["git"]["dirty"] or not r["git"]["sha"]]
    if untraceable and not arguments.allow_dirty:
        raise UsageError(
            f"{len(untraceable)} of {len(records)} records are of uncommitted source; commit and "
            "run again, or --allow-dirty"
        )
    path = arguments.results / "recorded" / f"{arguments.name}.jsonl"
    with RecordFile(path).locked() as file:
        known = {record["run_id"] for record in file.records()}
        new = [record for record in records if record["run_id"] not in known]
        for record in new:
            file.append(record)
    print(f"{len(new)} records added to {path}")
    return 0
