"""Measuring process of the timing gate: it builds a case and times slices of its steps.

Run as a script, ``python -P timing_process.py``, with the source tree to be measured first on the
import path. This one file measures both sides, so that they differ only in what they import
from the tree. Requests come as lines of JSON on the standard input, replies leave on the standard
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
from workloads import workload as contract
from workloads.catalogue import catalogue
from workloads.errors import WorkloadError
from workloads.workload import Program

_RUN_QUEUE = "/proc/thread-self/schedstat"
# This script also measures trees in which the class has its earlier name, ``Setting``.
_EXECUTION_CONTEXT: Any = vars(contract).get("ExecutionContext") or vars(contract)["Setting"]


class OwnTime:
    """Clock of this thread that excludes the time in which it waited for a core.

    If the thread never gave up its core, that is its CPU time. If it did, for a disk, a sleep or
    other threads, it is the wall time less the time in the run queue. Other work of the host and
    other guests of a hypervisor change wall time by half and this clock by little.
    """

    def __init__(self) -> None:
        try:
            self._run_queue = os.open(_RUN_QUEUE, os.O_RDONLY)
        except OSError:  # a kernel without it: time in the run queue is included
            self._run_queue = -1

    def of(self, work: Callable[[], object]) -> float:
        """Run `work` and return its seconds."""
        queued, given_up = self._queued(), _times_given_up()
        cpu, wall = thread_time(), perf_counter()
        work()
        wall, cpu = perf_counter() - wall, thread_time() - cpu
        if _times_given_up() == given_up:
            return cpu
        return max(cpu, wall - (self._queued() - queued))

    def _queued(self) -> float:
        """Return the seconds that this thread has waited in the run queue since its start."""
        if self._run_queue < 0:
            return 0.0
        return int(os.pread(self._run_queue, 128, 0).split()[1]) / 1e9


def _times_given_up() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


class Bench:
    """Case that is built, and its clock."""

    def __init__(self) -> None:
        self._case: dict[str, Any] = {}
        self._program: Program | None = None
        self._device: Device | None = None
        self._own_time = OwnTime()

    def build(self, case: dict[str, Any]) -> dict[str, Any]:
        """Build a case in place of the former one, and warm it up."""
        self._case, self._program = case, None
        gc.collect()
        # Objects that exist by now, torch above all, are not scanned again at every collection.
        gc.freeze()
        return self._build(warmup_steps=2)

    def rebuild(self) -> dict[str, Any]:
        """Build the same case at other addresses.

        The positions of tensors relative to each other modulo a page can change an operator's time
        by half.
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
            context = _EXECUTION_CONTEXT(
                device=device.torch_device,
                store=Path(self._case["store"]),
                seed=self._case["seed"],
            )
            program = workload.build(workload.configure(self._case["config"]), context)
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
        """Run steps for so many seconds; the first, with cold caches, counts only if alone."""
        gc.disable()
        steps, end = [self._step()], perf_counter() + seconds
        while perf_counter() < end:
            steps.append(self._step())
        gc.enable()
        return {"steps": steps[1:] or steps}

    def _step(self) -> list[float]:
        """Return the seconds of each phase of one step."""
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
    """Serve requests until the input ends."""
    # Output of workloads must not mix with the replies.
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


# The same room below both sides, whose steps differ in depth (`refsys.call_stack` has the reason; a
# tree may lack that module).
main.__code__ = main.__code__.replace(co_stacksize=2**16)

if __name__ == "__main__":
    sys.exit(main())
