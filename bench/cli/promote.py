"""``foldperf promote``."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import options

if TYPE_CHECKING:
    from bench.records.record import Record

SUMMARY = "copy records into the tracked results, as evidence"
EXAMPLE = "foldperf promote results/runs/demo/records.jsonl --name demo-laptop"
_DIGITS = re.compile("[0-9a-fA-F]{1,64}")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the records, the name of the evidence file and the checks."""
    parser.add_argument("records", type=Path, nargs="+", help="record files or folders")
    parser.add_argument("--name", required=True, help="name of the file of evidence")
    parser.add_argument(
        "--commit", default="", metavar="NAME", help="take the records of this commit alone"
    )
    parser.add_argument(
        "--allow-dirty", action="store_true", help="also take records that no commit reproduces"
    )
    options.add_results(parser)


def run(arguments: argparse.Namespace) -> int:
    """Append new records; refuse those that no commit can reproduce."""
    from bench.errors import UsageError
    from bench.records.record_file import RecordFile

    if not arguments.name or Path(arguments.name).name != arguments.name:
        raise UsageError(f"--name {arguments.name}: expected a file name without folders")
    records = options.valid_records(arguments.records)
    if arguments.commit:
        records = _of_commit(records, arguments.commit)
    if not records:
        which = f" of commit {arguments.commit}" if arguments.commit else ""
        raise UsageError(f"{', '.join(map(str, arguments.records))}: no records{which}")
    untraceable = [record for record in records if not _is_traceable(record)]
    if untraceable and not arguments.allow_dirty:
        raise UsageError(
            f"{len(untraceable)} of {len(records)} records are of source that no commit here "
            "holds; commit and run again, name a --commit, or --allow-dirty"
        )
    if not arguments.allow_dirty:
        _check_sources(records)
    path = arguments.results / "recorded" / f"{arguments.name}.jsonl"
    with RecordFile(path).locked() as file:
        recorded = {record.run_id for record in file.records()}
        new = [record for record in records if record.run_id not in recorded]
        for record in new:
            file.append(record)
    print(f"{len(new)} records added to {path}")
    return 0


def _of_commit(records: "list[Record]", name: str) -> "list[Record]":
    """Return the records of one commit.

    Args:
        records: Records of any commit.
        name: First digits of the commit's hash, or another name of it in git, such as ``HEAD``.

    Raises:
        UsageError: The digits are those of several commits.
    """
    from bench.errors import UsageError

    prefix = name.lower() if _DIGITS.fullmatch(name) else _resolve(name)
    selected = [record for record in records if (record.git.sha or "").startswith(prefix)]
    commits = sorted({str(record.git.sha) for record in selected})
    if len(commits) > 1:
        raise UsageError(f"--commit {name} is ambiguous: {', '.join(sha[:12] for sha in commits)}")
    return selected


def _resolve(name: str) -> str:
    """Return the full hash of a commit of this project's repository."""
    from bench.errors import GitError, UsageError
    from bench.records import provenance
    from bench.records.git import Repository

    try:
        return Repository(provenance.ROOT).resolve(name)
    except GitError as error:
        raise UsageError(f"--commit {name}: {error}") from None


def _is_traceable(record: "Record") -> bool:
    """Return True if a commit of this project holds the source of a record."""
    git = record.git
    return bool(git.sha) and not git.dirty and not record.workload.source_sha256


def _check_sources(records: "list[Record]") -> None:
    """Check that records are of the source of their commits, as far as the repository has them.

    Raises:
        UsageError: The source of a commit is not the measured one.
    """
    from bench.errors import GitError, UsageError
    from bench.records import provenance
    from bench.records.git import find_repository

    measured = {(str(record.git.sha), record.source_sha256) for record in records}
    for commit, source in sorted(measured):
        try:
            repository = find_repository(provenance.ROOT)
            actual = repository and provenance.commit_source_sha256(repository, commit)
        except GitError:
            continue  # the commit is another clone's
        if actual and actual != source:
            raise UsageError(
                f"records of commit {commit[:12]} are of other source than the commit has; run "
                "them again, or --allow-dirty"
            )
