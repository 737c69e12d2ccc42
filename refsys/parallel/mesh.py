"""Ranks of a run and their mesh, whose axes are ``data`` and ``context``."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from refsys.errors import ArgumentError, RefsysError
from refsys.options import values_of
from refsys.parallel.agreement import Agreement
from refsys.parallel.exchanges import launched_node_ranks
from refsys.parallel.ledger import LEDGER, TrafficKey
from refsys.parallel.monitor import watching
from refsys.parallel.rendezvous import limit, meet
from refsys.run_config import ParallelOptions

T = TypeVar("T")
AXES = ("data", "context")
_SOURCE = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class RunRanks:
    """Position of this process among the ranks of a run.

    Attributes:
        rank: Number of this rank, from 0.
        count: Number of ranks.
        mesh: Mesh of all ranks; None with one rank.
        flat_mesh: Mesh of all ranks with one axis; None unless parameters are sharded.
        host_group: Group of all ranks for messages of the host; None with one rank.
        agreement: Comparison of values among all ranks; None with one rank.
        context_agreement: The same among the ranks that share examples.
    """

    rank: int = 0
    count: int = 1
    mesh: DeviceMesh | None = None
    flat_mesh: DeviceMesh | None = None
    host_group: dist.ProcessGroup | None = None
    agreement: Agreement | None = None
    context_agreement: Agreement | None = None

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
        with watching(_key("scalars", "all_reduce"), self.data_group):
            dist.all_reduce(total, group=self.data_group)
        return total / self.mesh["data"].size()

    def gathered(self, value: T) -> list[T]:
        """Return the value of every rank, in order; the device is not involved."""
        if self.host_group is None:
            return [value]
        values: list[Any] = [None] * self.count
        with watching(_key("host", "all_gather"), self.host_group):
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
            with watching(_key("host", "barrier"), self.host_group):
                dist.barrier(group=self.host_group)

    def agree(self, subject: str, values: Mapping[str, object]) -> None:
        """Compare values with those of all ranks.

        Args:
            subject: Subject of the error.
            values: Values by name.

        Raises:
            ArgumentError: a value differs; every rank raises the same.
            RankError: a rank is missing.
        """
        if self.agreement is not None:
            self.agreement.check(subject, values)


def abstract_ranks(parallel: ParallelOptions) -> RunRanks:
    """Return the ranks of the process group that exists, for tracing.

    Args:
        parallel: Data and context ranks, as many as the process group has.
    """
    count = parallel.data_ranks * parallel.context_ranks
    shape = (parallel.data_ranks, parallel.context_ranks)
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=AXES)
    flat_mesh = init_device_mesh("cpu", (count,), mesh_dim_names=("rank",))
    return RunRanks(dist.get_rank(), count, mesh, flat_mesh)


def launched_ranks() -> int:
    """Return the number of ranks that were started together; 1 without a launcher."""
    if dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def join(
    parallel: ParallelOptions,
    device: torch.device,
    *,
    run: Mapping[str, object] | None = None,
    dumps: Path | None = None,
) -> RunRanks:
    """Join the ranks that `torchrun` started with this process.

    Args:
        parallel: Ranks that the run is configured for.
        device: Device of this rank.
        run: Further values that all ranks must have, by name.
        dumps: Folder for dumps of the flight recorder.

    Raises:
        ArgumentError: `torchrun` started another number of ranks, or the ranks have different
            configurations or versions.
        RankError: a rank has not joined within the timeout.
    """
    count, configured = launched_ranks(), parallel.data_ranks * parallel.context_ranks
    monitor = meet(device, parallel.collective_timeout, dumps) if count > 1 else None
    agreement = None
    if monitor is not None:
        agreement = monitor.agreement(range(count))
        values = {**versions(), **values_of(parallel), **(run or {})}
        if parallel.context_ranks > 1 and not parallel.node_ranks:
            values["ranks of a node"] = launched_node_ranks()
        agreement.check("the run", values)
    if count != configured:
        raise ArgumentError(
            f"data_ranks={parallel.data_ranks} and context_ranks={parallel.context_ranks} need "
            f"{configured} ranks, and {count} were started; start them with torchrun "
            f"--nproc-per-node {configured}"
        )
    if monitor is None:
        return RunRanks()
    mesh = init_device_mesh(
        device.type, (parallel.data_ranks, parallel.context_ranks), mesh_dim_names=AXES
    )
    groups = [mesh.get_group(axis) for axis in AXES]
    flat_mesh = None
    if parallel.shard_parameters:
        flat_mesh = init_device_mesh(device.type, (count,), mesh_dim_names=("rank",))
        groups.append(flat_mesh.get_group())
    for group in groups:
        limit(group, device, monitor.timeout_s)
    host_group = dist.new_group(backend="gloo", timeout=timedelta(seconds=monitor.timeout_s))
    context = dist.get_process_group_ranks(mesh.get_group("context"))
    return RunRanks(
        dist.get_rank(),
        count,
        mesh,
        flat_mesh,
        host_group,
        agreement,
        monitor.agreement(context),
    )


def versions() -> dict[str, str]:
    """Return the versions that all ranks of a run must have, the source's hash among them."""
    found = {"torch": str(torch.__version__)}
    with suppress(PackageNotFoundError):
        found["triton"] = version("triton")
    digest = hashlib.sha256()
    for path in sorted(_SOURCE.rglob("*.py")):
        digest.update(path.relative_to(_SOURCE).as_posix().encode() + path.read_bytes())
    return found | {"source": digest.hexdigest()[:12]}


def _key(operator: str, kind: str) -> TrafficKey:
    """Return the origin of an operation that the ledger does not count."""
    return TrafficKey(operator, LEDGER.phase, "forward", kind)
