"""Stage ``communication``: collectives of two devices, for equality, bytes and bandwidth."""

import json
import os
import sys
from typing import Any

from bench.cgroup import usable_memory_bytes
from bench.check_device.check import Check, FailedError, SkippedError
from bench.records.working_tree import ROOT
from bench.run.isolation import run_isolated

_RANKS = 2


def run(check: Check) -> dict[str, Any]:
    """Run the collectives on two ranks, and return what each gave.

    Raises:
        SkippedError: there are fewer than two devices.
        FailedError: a rank failed, or a result is not the sum or the parts that it should be.
    """
    check.need_accelerator("collectives of devices")
    if check.devices < _RANKS:
        raise SkippedError("collectives need two devices, and there is one")
    result = check.folder / "collectives.json"
    result.unlink(missing_ok=True)
    sizes = ",".join(map(str, check.sizes.message_mib))
    device = "cpu" if check.is_rehearsal else "cuda"
    ended = run_isolated(
        [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--nproc-per-node", str(_RANKS), "--max-restarts", "0"),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"),
            *("-m", "bench.check_device.collectives", device, sizes, str(result.resolve())),
        ],
        timeout_s=max(1.0, check.remaining()),
        memory_limit_bytes=usable_memory_bytes(),
        environment={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    try:
        measurements = json.loads(result.read_bytes())
    except (OSError, ValueError):
        raise FailedError(
            f"the ranks ended with {ended.cause or ended.status}: {ended.last_line()}"
        ) from None
    wrong = [measurement["operation"] for measurement in measurements if not measurement["equal"]]
    for measurement in measurements:
        check.say(
            f"communication {measurement['operation']} {measurement['bytes'] / 2**20:g} MiB: "
            f"{measurement['bus_bytes_s'] / 1e9:.3g} GB/s on the bus"
        )
    if wrong:
        raise FailedError(f"wrong results: {', '.join(wrong)}", {"collectives": measurements})
    return {"collectives": measurements}
