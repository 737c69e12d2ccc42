"""Predicted costs of training steps beside those of real steps on a CPU.

Real steps run on real tensors under the tracer, each rank in a process of its own; the prediction
runs the same program under fake tensors. Kernels are replaced by ones that write zeros, or
interpreted. As a script, print the error of every peak, and fail if the median exceeds 1 %, one
exceeds 5 %, or FLOPs, launches or bytes of collectives differ:
``PYTHONPATH=.:tests python tests/support/peak_errors.py [TEXT]``, for the cases whose title
contains a text, or with ``--quick`` for a few small ones.
"""

import gc
import os
import socket
import statistics
import sys
import tempfile

if __name__ == "__main__":
    # Before the kernels are imported.
    os.environ["TRITON_INTERPRET"] = "1"

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
import torch.multiprocessing as mp

from refsys.costs.trace import Trace, trace
from refsys.ops.host_memory import TO_DEVICE, TO_HOST
from workloads.catalogue import catalogue
from workloads.predicted_costs import predicted_costs
from workloads.structure_training import TrainingProgram
from workloads.workload import ExecutionContext

MEDIAN, WORST = 0.01, 0.05
# Ways to run kernels on a CPU.
NONE, STUBBED, INTERPRETED = "reference", "stubbed", "interpreted"
_USUAL = {"entry": "synthetic", "workers": 0, "cycles": 1}


class Case(NamedTuple):
    """A step.

    Attributes:
        axes: Axes of the workload.
        kernels: `NONE`, `STUBBED` or `INTERPRETED`.
        workload: Name of the workload.
    """

    axes: Mapping[str, Any]
    kernels: str = NONE
    workload: str = "alphafold3"

    @property
    def ranks(self) -> int:
        """Context ranks."""
        return int(self.axes.get("context_ranks", 1))

    @property
    def title(self) -> str:
        """Return the case in words."""
        axes = " ".join(f"{name}={value}" for name, value in self.axes.items())
        return f"{self.workload} {self.kernels} {axes}"

    def configure(self) -> tuple[Any, Any]:
        """Return the workload and its configuration."""
        workload = catalogue()[self.workload]
        backend = "reference" if self.kernels == NONE else "triton"
        return workload, workload.configure({**_USUAL, "backend": backend, **self.axes})


class Figures(NamedTuple):
    """Costs that are compared: the peak closely, the others exactly."""

    peak: int
    flops: int
    launches: int
    sent_bytes: int
    calls: int
    host_bytes: int
    moved_bytes: int

    @classmethod
    def of(cls, costs: Trace, host_phases: tuple[str, ...] = ()) -> "Figures":
        """Return the figures of a trace without the phases of the host."""
        origins = [cost for key, cost in costs.costs.items() if key.phase not in host_phases]
        communication = costs.communication.values()
        return cls(
            costs.peak.nbytes,
            sum(cost.flops for cost in origins),
            sum(cost.launches for cost in origins),
            sum(total.sent_bytes for total in communication),
            sum(total.calls for total in communication),
            costs.host_bytes,
            sum(c.nbytes for o, c in costs.costs.items() if o.operator in {TO_HOST, TO_DEVICE}),
        )


def cases() -> Iterator[Case]:
    """Yield the whole matrix."""
    for preset, sizes in (("tiny", (64, 128, 256, 384)), ("mini", (64, 128, 256, 384))):
        for tokens in sizes:
            axes = {"preset": preset, "tokens": tokens}
            for kernels in (NONE, STUBBED):
                yield Case(axes, kernels)
                # Intermediates of the reference grow with the cube of the length.
                if kernels == STUBBED or tokens <= (256 if preset == "tiny" else 128):
                    yield Case(axes | {"checkpointing": False}, kernels)
                yield Case(axes | {"chunk_rows": tokens // 3, "chunk_samples": 1}, kernels)
                if tokens >= 128:
                    yield Case(axes | {"offload_checkpoints": True}, kernels)
                if tokens > (256 if preset == "tiny" else 128):
                    continue
                for ranks in (2, 4):
                    ranked = axes | {"context_ranks": ranks}
                    yield Case(ranked, kernels)
                    yield Case(ranked | {"chunk_rows": tokens}, kernels)
                    if tokens >= 128:
                        yield Case(ranked | {"offload_checkpoints": True}, kernels)
    for checkpointing in (True, False):
        axes = {"preset": "tiny", "tokens": 33, "alignment_rows": 8, "checkpointing": checkpointing}
        yield Case(axes, INTERPRETED, "alphafold3-trunk")


_SMALL = {"preset": "tiny", "tokens": 48, "alignment_rows": 8}
_TRUNK = "alphafold3-trunk"
_TWO = _SMALL | {"context_ranks": 2}
QUICK = (
    Case(_TWO | {"chunk_rows": 20, "checkpointing": False}, NONE, _TRUNK),
    Case(_TWO | {"tokens": 128, "offload_checkpoints": True}, STUBBED, _TRUNK),
)


def predicted(case: Case) -> Figures:
    """Return the predicted costs of the first rank."""
    workload, config = case.configure()
    return Figures.of(predicted_costs(workload, config))


def measured(case: Case) -> Figures:
    """Return the costs of the second real step on the first rank, in processes of its own."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(
            _run, (case, folder, _free_port()), nprocs=case.ranks, start_method="fork"
        )
        return Figures(*torch.load(Path(folder, "figures.pt")))


def real_step(case: Case, store: Path, rank: int = 0) -> Figures:
    """Return the costs of the second real step of a rank in this process."""
    workload, config = case.configure()
    setting = ExecutionContext(device=torch.device("cpu"), store=store, rank=rank, ranks=case.ranks)
    program = workload.build(config, setting)
    assert isinstance(program, TrainingProgram)
    for phase in program.phases:
        program.run(phase)
    return Figures.of(trace(program), program.host_phases)


def _run(rank: int, case: Case, folder: str, port: int) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(case.ranks),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    torch.set_num_threads(1)
    if case.kernels == STUBBED:
        stub_kernels()
    elif case.kernels == INTERPRETED:
        collect_after_kernels()
    figures = real_step(case, Path(folder), rank)
    if rank == 0:
        torch.save(tuple(figures), Path(folder, "figures.pt"))


def stub_kernels() -> None:
    """Replace every kernel of this process by one that sets its tensors to zero.

    It cannot tell outputs from inputs. Nothing of a step's costs depends on their values.
    """
    from refsys.ops import triton_backend

    triton_backend.function = lambda kernel: _Stub()


def collect_after_kernels() -> None:
    """Free after each kernel what the interpreter leaves in cycles: a trace collects no garbage."""
    from refsys.ops import triton_backend

    gc.freeze()
    function = triton_backend.function
    triton_backend.function = lambda kernel: _Collected(function(kernel))


class _Collected:
    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def __getitem__(self, grid: object) -> Callable[..., None]:
        def run(*arguments: Any, **options: Any) -> None:
            self._kernel[grid](*arguments, **options)
            gc.collect()

        return run


class _Stub:
    def __getitem__(self, grid: object) -> "_Stub":
        return self

    def __call__(self, *arguments: Any, **options: Any) -> None:
        for tensor in torch.utils._pytree.tree_leaves(arguments):
            if isinstance(tensor, torch.Tensor):
                # Not through autograd, which would refuse a changed input.
                tensor.data.zero_()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def differences(found: Figures, expected: Figures) -> dict[str, tuple[int, int]]:
    """Return the figures that must be equal and are not, with both values."""
    pairs = zip(Figures._fields[1:], found[1:], expected[1:], strict=True)
    return {name: (one, other) for name, one, other in pairs if one != other}


def main() -> int:
    """Print the error of every case; return 1 if a law does not hold."""
    text = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = QUICK if text == "--quick" else [case for case in cases() if text in case.title]
    errors, differing = [], 0
    for case in chosen:
        start = perf_counter()
        real, expected = measured(case), predicted(case)
        error = expected.peak / real.peak - 1
        errors.append(abs(error))
        wrong = differences(expected, real)
        differing += bool(wrong)
        print(
            f"{error:+.4%} of {real.peak / 2**20:.1f} MiB: {case.title}; "
            f"{perf_counter() - start:.0f} s {wrong or ''}",
            flush=True,
        )
    median, worst = statistics.median(errors), max(errors)
    print(f"{len(errors)} cases: median {median:.3%}, worst {worst:.3%}, {differing} not exact")
    return int(differing > 0 or median >= MEDIAN or worst >= WORST)


if __name__ == "__main__":
    sys.exit(main())
