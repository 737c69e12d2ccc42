"""Ranks of a run and their mesh, whose axes are ``data`` and ``context``."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from refsys.errors import ArgumentError, RefsysError
from refsys.run_config import ParallelOptions

T = TypeVar("T")
AXES = ("data", "context")
# A rank that builds its first batch or compiles its kernels leaves the others waiting so long.
_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class RunRanks:
    """Position of this process among the ranks of a run.

    Attributes:
        rank: Number of this rank, from 0.
        count: Number of ranks.
        mesh: Mesh of all ranks; None with one rank.
        flat_mesh: Mesh of all ranks with one axis; None unless parameters are sharded.
        host_group: Group of all ranks for messages of the host; None with one rank.
    """

    rank: int = 0
    count: int = 1
    mesh: DeviceMesh | None = None
    flat_mesh: DeviceMesh | None = None
    host_group: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Return whether this rank writes the log and the checkpoints."""
        return self.rank == 0

    @property
    def data_rank(self) -> int:
        """Number of this rank along the data axis."""
        return 0 if self.mesh is None else self.mesh.get_local_rank("data")

    @property
    def data_group(self) -> dist.ProcessGroup | None:
        """Group of the data ranks; None with one rank."""
        return None if self.mesh is None else self.mesh.get_group("data")

    @property
    def context_ranks(self) -> int:
        """Number of ranks that divide each example among them."""
        return 1 if self.mesh is None else self.mesh["context"].size()

    @property
    def context_group(self) -> dist.ProcessGroup | None:
        """Group of the ranks that this one divides its examples with; None with one rank."""
        return None if self.mesh is None else self.mesh.get_group("context")

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over the data ranks, the same bits on every rank."""
        if self.mesh is None:
            return values
        total = values.clone()
        dist.all_reduce(total, group=self.data_group)
        return total / self.mesh["data"].size()

    def gathered(self, value: T) -> list[T]:
        """Return the value of every rank, in order; the device is not involved."""
        if self.host_group is None:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self.host_group)
        return values

    @contextmanager
    def one_error(self) -> Iterator[None]:
        """Raise the first error of any rank on every rank, at the end of the block.

        Errors are those that the project raises deliberately; the block has no collectives.
        """
        error: RefsysError | None = None
        try:
            yield
        except RefsysError as raised:
            error = raised
        for raised_on_rank in self.gathered(error):
            if raised_on_rank is not None:
                raise raised_on_rank

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.host_group is not None:
            dist.barrier(group=self.host_group)


def launched_ranks() -> int:
    """Return the number of ranks that were started together; 1 without a launcher."""
    if dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def join(parallel: ParallelOptions, device: torch.device) -> RunRanks:
    """Join the ranks that `torchrun` started with this process.

    Args:
        parallel: Ranks that the run is configured for.
        device: Device of this rank.

    Raises:
        ArgumentError: `torchrun` started another number of ranks.
    """
    count, configured = launched_ranks(), parallel.data_ranks * parallel.context_ranks
    if count != configured:
        raise ArgumentError(
            f"data_ranks={parallel.data_ranks} and context_ranks={parallel.context_ranks} need "
            f"{configured} ranks, and {count} were started; start them with torchrun "
            f"--nproc-per-node {configured}"
        )
    if count == 1:
        return RunRanks()
    if not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
            dist.init_process_group("nccl", timeout=_TIMEOUT, device_id=device)
        else:
            dist.init_process_group("gloo", timeout=_TIMEOUT)
    mesh = init_device_mesh(
        device.type, (parallel.data_ranks, parallel.context_ranks), mesh_dim_names=AXES
    )
    flat_mesh = None
    if parallel.shard_parameters:
        flat_mesh = init_device_mesh(device.type, (count,), mesh_dim_names=("rank",))
    host_group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
    return RunRanks(dist.get_rank(), count, mesh, flat_mesh, host_group)
