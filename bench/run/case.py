"""Case process: it measures one case and writes the result to a file.

Run as ``python -m bench.run.case REQUEST RESULT``, by itself or as one of the ranks that
``bench.run.launch`` starts; each writes ``RESULT.<rank>``. Output of the workload is left
alone: the result is a file of its own, and the parent notices a missing or malformed one.
"""

import io
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from bench.probes.host_memory import return_freed_memory
from refsys.call_stack import call_with_room
from refsys.processes import die_with_parent

# Message of the host allocator's failure, which is a plain RuntimeError.
_CPU_OOM = "DefaultCPUAllocator: can't allocate memory"
# Time that a rank has left once the launcher wants it to end.
_LAST_WORDS_S = 10.0


def main(request_path: str, result_path: str) -> int:
    """Run the case of a request file.

    With several ranks the status is 1 if this rank failed: the launcher then ends the others, which
    wait for it. They have `_LAST_WORDS_S` to find out which rank is missing, and to write it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A workload may print a character that the locale lacks.
            stream.reconfigure(errors="backslashreplace")
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    rank, ranks = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE"))
    alone = ranks <= 1
    die_with_parent(request["parent"] if alone else os.getppid())
    if not alone:
        signal.signal(signal.SIGTERM, _end_soon)
    return_freed_memory(True)
    result = call_with_room(_run, request)
    from refsys.files import write_json

    write_json(Path(f"{result_path}.{rank}"), result)
    return 0 if alone or result["status"] == "ok" else 1


def _end_soon(number: int, frame: FrameType | None) -> None:
    """End this process after some time, unless it ends by itself."""
    del number, frame
    timer = threading.Timer(_LAST_WORDS_S, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _run(request: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a case, or its status and reason if it fails."""
    import torch

    from bench.devices import Unavailable, find_device
    from bench.devices.device import NoPermission
    from bench.run.measure import Protocol, measure
    from bench.run.ranks import join
    from workloads.catalogue import catalogue
    from workloads.errors import UnsupportedError
    from workloads.workload import ExecutionContext

    unsupported = (UnsupportedError, NotImplementedError, Unavailable)
    try:
        device = find_device(request["device"], int(os.environ.get("LOCAL_RANK", "0")))
        ranks = join(device.torch_device, request["timeout_s"])
        setting = ExecutionContext(
            device=device.torch_device,
            store=Path(request["store"]),
            seed=request["seed"],
            rank=ranks.rank,
            ranks=ranks.count,
        )
        workload = catalogue()[request["workload"]]
        config = workload.configure(request["config"])
        protocol = Protocol(**request["protocol"])
        result = measure(workload, config, setting, device, protocol, ranks)
    except (PermissionError, NoPermission) as error:
        return _failed("blocked", error)
    except unsupported as error:
        return _failed("unsupported", error)
    except Exception as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or _CPU_OOM in str(error):
            return _failed("oom", error)
        traceback.print_exc()
        return _failed("crash", error)
    return {"status": "ok", "reason": None, **result}


def _failed(status: str, error: BaseException) -> dict[str, Any]:
    text = " ".join(str(error).split())
    return {"status": status, "reason": f"{type(error).__name__}: {text}"[:500]}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
