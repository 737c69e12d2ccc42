"""``foldperf stamp``."""

import argparse

SUMMARY = "write the commit into the tree, for copies that leave .git behind"
EXAMPLE = "foldperf stamp"


def configure(parser: argparse.ArgumentParser) -> None:
    """No arguments."""
    del parser


def run(arguments: argparse.Namespace) -> int:
    """Writes the stamp that `bench.provenance` reads where there is no repository."""
    del arguments
    from bench import provenance
    from bench.errors import UsageError
    from refsys.files import write_json

    state = provenance.git_state()
    if not state["sha"]:
        raise UsageError(f"{provenance.ROOT} is not a git repository")
    path = provenance.ROOT / provenance.STAMP
    write_json(path, state | {"source_sha256": provenance.source_sha256()})
    print(f"{path}: {state['sha'][:12]}{' (dirty)' if state['dirty'] else ''}")
    return 0
