"""Modules that a measuring process must not load."""

import subprocess
import sys

from support import HANG_S

# With FSDP's classes loaded, torch's profiler crashes now and then beside ranks of gloo.
SCRIPT = """
import sys
import bench.run.measure
from workloads.catalogue import catalogue
catalogue()
loaded = [m for m in ("torch.distributed.fsdp", "torch.distributed.tensor") if m in sys.modules]
sys.exit(f"loaded: {loaded}" if loaded else 0)
"""


def test_classes_of_sharded_parameters_are_loaded_where_parameters_are_sharded_alone():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        check=False,
        timeout=HANG_S,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
