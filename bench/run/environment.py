"""Environment variables of a case process."""

import os
import sys
import sysconfig
from pathlib import Path

from bench.records import provenance


def threads_variable(threads: int) -> dict[str, str]:
    """Return the variable that sets torch's number of threads; empty if it is 0."""
    return {"OMP_NUM_THREADS": str(threads)} if threads else {}


def case_environment(ranks: int, cores: int, threads: int = 0) -> dict[str, str]:
    """Return this process's environment, in which a case imports what this process imports.

    The working folder may hold packages of the same names, of a clone perhaps: it is searched only
    if this process searches it, and then last. Several ranks share the cores, and a quota allows
    fewer threads than there are cores, unless the sweep or the user says how many threads each rank
    has; the user's variable is taken before the sweep's `threads`.
    """
    paths = [str(provenance.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    if Path(sysconfig.get_path("purelib")).resolve() == provenance.ROOT:
        # Searched anyway, and after the standard library.
        paths = paths[1:]
    if os.getcwd() in sys.path:
        paths.append(os.getcwd())
    limited = ranks > 1 or cores < len(os.sched_getaffinity(0))
    if limited and not threads:
        threads = max(1, cores // ranks)
    search = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
    return threads_variable(threads) | os.environ | search
