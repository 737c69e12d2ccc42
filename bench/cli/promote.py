"""``foldperf promote``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import options

if TYPE_CHECKING:
    from bench.record import Record

SUMMARY = "copy records that are evidence into the tracked results"
EXAMPLE = "foldperf promote results/runs/demo/records.jsonl --name demo-laptop"


def configure(parser: argparse.ArgumentParser) -> None:
    """Which records, under which name."""
    parser.add_argument("records", type=Path, nargs="+", help="record files or folders")
    parser.add_argument("--name", required=True, help="name of the file they go to")
    parser.add_argument(
        "--commit", default="", metavar="SHA", help="take the records of this commit alone"
    )
    parser.add_argument(
        "--allow-dirty", action="store_true", help="also take records that no commit reproduces"
    )
    options.add_results(parser)


def run(arguments: argparse.Namespace) -> int:
    """Appends records that are not there yet; refuses those that no commit can reproduce."""
    from bench.errors import UsageError
    from bench.record_file import RecordFile

    if not arguments.name or Path(arguments.name).name != arguments.name:
        raise UsageError(f"--name {arguments.name}: expected a file name without folders")
    records = [
        record
        for record in options.valid_records(arguments.records)
        if (record["git"]["sha"] or "").startswith(arguments.commit)
    ]
    if not records:
        which = f" of commit {arguments.commit}" if arguments.commit else ""
        raise UsageError(f"{', '.join(map(str, arguments.records))}: no records{which}")
    untraceable = [record for record in records if not _is_traceable(record)]
    if untraceable and not arguments.allow_dirty:
        raise UsageError(
            f"{len(untraceable)} of {len(records)} records are of source that no commit here "
            "holds; commit and run again, name a --commit, or --allow-dirty"
        )
    path = arguments.results / "recorded" / f"{arguments.name}.jsonl"
    with RecordFile(path).locked() as file:
        known = {record["run_id"] for record in file.records()}
        new = [record for record in records if record["run_id"] not in known]
        for record in new:
            file.append(record)
    print(f"{len(new)} records added to {path}")
    return 0


def _is_traceable(record: "Record") -> bool:
    git = record["git"]
    return bool(git["sha"]) and not git["dirty"] and not record["workload"]["source_sha256"]
