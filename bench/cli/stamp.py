"""``foldperf stamp``."""

import argparse
from dataclasses import asdict

SUMMARY = "write the commit into the tree, for copies without .git"
EXAMPLE = "foldperf stamp"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add no arguments."""
    del parser


def run(arguments: argparse.Namespace) -> int:
    """Write the stamp that `bench.records.provenance` reads where there is no repository.

    Raises:
        UsageError: The tree has no repository; a stamped copy is not stamped again.
        GitError: Git refuses to read the repository.
    """
    del arguments
    from bench.errors import UsageError
    from bench.records import provenance
    from bench.records.git import find_repository
    from refsys.files import write_json

    root = provenance.ROOT
    repository = find_repository(root)
    if repository is None:
        raise UsageError(f"{root} is not a git repository: stamp the tree that it was copied from")
    state = provenance.repository_state(repository)
    path = root / provenance.STAMP
    write_json(path, asdict(state) | {"source_sha256": provenance.source_sha256(root)})
    print(f"{path}: {str(state.sha)[:12]}{' (dirty)' if state.dirty else ''}")
    return 0
