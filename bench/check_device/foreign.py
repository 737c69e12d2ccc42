"""Timing a case with another Python interpreter: ``python -m bench.check_device.foreign``.

The interpreter belongs to an environment that has a baseline's package, and the torch that it
needs. It imports this project's source, and nothing else of this process's environment.
"""

import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.records.working_tree import ROOT
from refsys.call_stack import call_with_room

_RESULT = "result.json"


def measure_elsewhere(check: Any, config: Any, interpreter: Path) -> Any:
    """Measure an operator in a process of another interpreter.

    Raises:
        UnsupportedError: the process fails, or takes longer than the stage has left; the message
            has its last line.
    """
    from bench.cgroup import usable_memory_bytes
    from bench.check_device.operators import SINGLE_OPERATOR
    from bench.check_device.recorder import Measured
    from bench.run.isolation import run_isolated
    from workloads.errors import UnsupportedError

    with tempfile.TemporaryDirectory(prefix="foldperf-baseline-") as name:
        folder = Path(name)
        request = {
            "config": check.workload(SINGLE_OPERATOR).values(config),
            "samples": check.sizes.samples,
            "sample_s": check.sizes.sample_s,
            "preset": check.sizes.preset,
            "device": str(check.device.torch_device),
        }
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        environment = {n: v for n, v in os.environ.items() if not n.startswith("PYTHON")}
        ended = run_isolated(
            [str(interpreter), "-m", "bench.check_device.foreign", str(folder)],
            timeout_s=max(1.0, check.remaining()),
            memory_limit_bytes=usable_memory_bytes(),
            environment=environment | {"PYTHONPATH": str(ROOT)},
            folder=folder,
        )
        try:
            result = json.loads((folder / _RESULT).read_bytes())
        except (OSError, ValueError):
            cause = ended.cause or f"status {ended.status}"
            last = ended.last_line() or "it printed nothing"
            raise UnsupportedError(f"{interpreter} ended with {cause}: {last}") from None
    return Measured(**result)


def main(folder: str) -> int:
    """Measure the case of a request, in the process of the other interpreter."""
    from bench.check_device.check import Check, Sizes, measured_or_reason
    from bench.check_device.operators import SINGLE_OPERATOR
    from bench.check_device.timing import time_operator
    from bench.devices import find_device
    from bench.records import provenance

    request = json.loads((Path(folder) / "request.json").read_bytes())
    sizes = Sizes(
        preset=request["preset"], samples=request["samples"], sample_s=request["sample_s"]
    )
    kind, _, index = request["device"].partition(":")
    check = Check(
        device=find_device(kind, int(index or 0)),
        devices=1,
        is_rehearsal=False,
        sizes=sizes,
        recorder=None,  # type: ignore[arg-type]  # the process that asks keeps the record
        folder=Path(folder),
        store=Path(folder),
    )
    config = check.workload(SINGLE_OPERATOR).configure(request["config"])
    measured = measured_or_reason(lambda: time_operator(check, config))
    result = asdict(measured) | {"software": provenance.software()}
    (Path(folder) / _RESULT).write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(call_with_room(main, *sys.argv[1:]))
