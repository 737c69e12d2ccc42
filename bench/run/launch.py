"""Launcher of the ranks of a case: ``python -m bench.run.launch PARENT RANKS REQUEST RESULT``.

`torchrun` runs in this process, which dies with its parent; the ranks die with this process.
"""

import sys

from refsys.processes import die_with_parent


def main(parent: str, ranks: str, request: str, result: str) -> int:
    """Run ``bench.run.case`` on several ranks of this machine."""
    die_with_parent(int(parent))
    from torch.distributed.run import main as torchrun

    # A port of the system's choice, so that several sweeps may run at once.
    torchrun(
        [
            *("--nproc-per-node", ranks, "--max-restarts", "0"),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"),
            *("-m", "bench.run.case", request, result),
        ]
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
