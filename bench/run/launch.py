"""Launcher of the ranks of a case: ``python -m bench.run.launch PARENT RANKS REQUEST RESULT``.

`torchrun` runs in this process, which dies with its parent; the ranks die with this process.
"""

import sys

from refsys.processes import die_with_parent, run_ranks


def main(parent: str, ranks: str, request: str, result: str) -> int:
    """Run ``bench.run.case`` on several ranks of this machine."""
    die_with_parent(int(parent))
    return run_ranks(int(ranks), ["-m", "bench.run.case", request, result])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
