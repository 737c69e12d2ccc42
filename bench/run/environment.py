"""Environment variables of a case process."""

import os
import sys
import sysconfig
from pathlib import Path

from bench.records import provenance


def case_environment(ranks: int, cores: int) -> dict[str, str]:
    """Return this process's environment, in which a case imports what this process imports.

    The working folder may hold packages of the same names, of a clone perhaps: it is searched only
    if this process searches it, and then last. Several ranks share the cores, and a quota allows
    fewer threads than there are cores, unless the user says how many threads each rank has.
    """
    paths = [str(provenance.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    if Path(sysconfig.get_path("purelib")).resolve() == provenance.ROOT:
        # Searched anyway, and after the standard library.
        paths = paths[1:]
    if os.getcwd() in sys.path:
        paths.append(os.getcwd())
    limited = ranks > 1 or cores < len(os.sched_getaffinity(0))
    threads = {"OMP_NUM_THREADS": str(max(1, cores // ranks))} if limited else {}
    search = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
    return threads | os.environ | search
