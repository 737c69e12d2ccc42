"""The measuring process of the timing gate: builds a case, times slices of steps, case after case.

Run as a script, ``python -P timing_process.py``, with the source tree to be measured first on the
import path. This one file measures both sides, so that they differ in nothing but what they import
from it. Requests come as lines of JSON on the standard input, replies leave on the standard
output; the end of the input ends the process.

========  ===============================  ===============================================
request   fields                           reply
========  ===============================  ===============================================
(start)                                    ``tree``, the folder where ``workloads`` lies
build     case: workload, config, device,  ``phases``, ``build_s``; or ``failed``, a status
          store, seed                      of records, and ``reason``
rebuild                                    the same
slice     seconds                          ``steps``, seconds by step and phase
========  ===============================  ===============================================
"""

import gc
import json
import os
import random
import resource
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

import torch

import workloads
from bench.devices import Device, Unavailable, find_device
from workloads.catalogue import catalogue
from workloads.errors import WorkloadError
from workloads.workload import Program, Setting

_RUN_QUEUE = "/proc/thread-self/schedstat"


class OwnTime:
    """Seconds of this thread without those in which it wanted a core and had none.

    Where it never gave its core up, that is its CPU time. Where it did, for a disk, a sleep or
    other threads, it is the wall time less what it then stood in the run queue. A host's other
    work and a hypervisor's other guests change wall time by half and this by little.
    """

    def __init__(self) -> None:
        try:
            self._run_queue = os.open(_RUN_QUEUE, os.O_RDONLY)
        except OSError:  # a kernel without it: what was stood in the queue stays in
            self._run_queue = -1

    def of(self, work: Callable[[], object]) -> float:
        """Runs `work` and gives its seconds."""
        queued, given_up = self._queued(), _times_given_up()
        cpu, wall = thread_time(), perf_counter()
        work()
        wall, cpu = perf_counter() - wall, thread_time() - cpu
        if _times_given_up() == given_up:
            return cpu
        return max(cpu, wall - (self._queued() - queued))

    def _queued(self) -> float:
        """Seconds that this thread stood in the run queue since it began."""
        if self._run_queue < 0:
            return 0.0
        return int(os.pread(self._run_queue, 128, 0).split()[1]) / 1e9


def _times_given_up() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


class Bench:
    """The case that is built, and its clock."""

    def __init__(self) -> None:
        self._case: dict[str, Any] = {}
        self._program: Program | None = None
        self._device: Device | None = None
        self._own_time = OwnTime()

    def build(self, case: dict[str, Any]) -> dict[str, Any]:
        """Puts a case in the place of the former one, and warms it up."""
        self._case, self._program = case, None
        gc.collect()
        # What lives by now, torch above all, is not looked through again at every collection.
        gc.freeze()
        return self._build(warmup_steps=2)

    def rebuild(self) -> dict[str, Any]:
        """The same case at other addresses.

        Where its tensors lie to one another modulo a page can change an operator's time by half.
        """
        self._program = None
        gc.collect()
        self._shift = torch.empty(random.randrange(2**20), dtype=torch.uint8)
        return self._build(warmup_steps=1)

    def _build(self, warmup_steps: int) -> dict[str, Any]:
        start = thread_time()
        try:
            workload = catalogue()[self._case["workload"]]
            device = find_device(self._case["device"])
            setting = Setting(
                device=device.torch_device,
                store=Path(self._case["store"]),
                seed=self._case["seed"],
            )
            program = workload.build(workload.configure(self._case["config"]), setting)
            self._program, self._device = program, device
            for _ in range(warmup_steps):
                self._step()
        except (WorkloadError, NotImplementedError, Unavailable) as error:
            return _failed("unsupported", error)
        except Exception as error:
            traceback.print_exc()
            return _failed("crash", error)
        return {"phases": list(program.phases), "build_s": thread_time() - start}

    def slice(self, seconds: float) -> dict[str, Any]:
        """Steps for so many seconds, one at least; the first, its caches cold, only if alone."""
        gc.disable()
        steps, end = [self._step()], perf_counter() + seconds
        while perf_counter() < end:
            steps.append(self._step())
        gc.enable()
        return {"steps": steps[1:] or steps}

    def _step(self) -> list[float]:
        """Seconds of each phase of one step."""
        program, device = self._program, self._device
        assert program is not None, "a case is built first"
        assert device is not None, "a case is built first"
        if device.torch_device.type == "cpu":
            return [self._own_time.of(partial(program.run, phase)) for phase in program.phases]
        watch = device.stopwatch()
        device.synchronize()
        watch.mark()
        for phase in program.phases:
            program.run(phase)
            watch.mark()
        return watch.intervals()


def _failed(status: str, error: Exception) -> dict[str, Any]:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return {"failed": status, "reason": text[:300]}


def main() -> int:
    """Serves requests until there are no more."""
    # What workloads print must not get between the replies.
    replies = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    bench = Bench()
    torch.empty(1)
    print(json.dumps({"tree": str(Path(workloads.__path__[0]).parent)}), file=replies)
    for line in sys.stdin:
        request = json.loads(line)
        reply = getattr(bench, request.pop("request"))(**request)
        print(json.dumps(reply), file=replies)
    return 0


if __name__ == "__main__":
    sys.exit(main())
