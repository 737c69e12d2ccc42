"""Starts the ranks of a case: ``python -m bench.run.launch PARENT RANKS REQUEST RESULT``.

`torchrun` in this process, which dies with the one that asked for the case; its ranks die with it.
"""

import sys

from refsys.processes import die_with_parent


def main(parent: str, ranks: str, request: str, result: str) -> int:
    """Runs ``bench.run.case`` on so many ranks of this machine."""
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
