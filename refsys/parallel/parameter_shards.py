"""Parameters, gradients and optimizer state divided among all ranks, by torch's FSDP2.

The ranks of the mesh, data and context, each hold a part of every parameter. A block of a stack is
gathered before it runs, and the sum of its gradients is scattered after its backward pass; the
parameters outside of blocks are gathered once a step.

FSDP2 supports one outermost call a step. A forward pass of AlphaFold 3 calls its model several
times, so that all of it runs inside one call of an `Entry`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.fsdp._fully_shard._fsdp_collectives import (
    DefaultAllGather,
    DefaultReduceScatter,
)
from torch.distributed.tensor import DTensor

from refsys.parallel.ledger import LEDGER
from refsys.parallel.mesh import RunRanks

# Name under which the communication is counted.
OPERATOR = "parameters"


class Entry(nn.Module):
    """Outermost module of a sharded model, inside whose call a forward pass runs.

    Attributes:
        model: The model, whose parameters are sharded.
        ranks: Ranks that share them.
    """

    def __init__(self, model: nn.Module, ranks: RunRanks) -> None:
        super().__init__()
        self.model = model
        self.ranks = ranks

    def forward(self, run: Callable[[], Tensor]) -> Tensor:
        """Return `run()`, a scalar loss, with the parameters outside of blocks gathered."""
        return run()

    def full(self, tensor: Tensor) -> Tensor:
        """Return all of a sharded tensor, on every rank."""
        assert isinstance(tensor, DTensor)
        return tensor.full_tensor()


def shard(model: nn.Module, blocks: list[nn.Module], ranks: RunRanks) -> Entry:
    """Divide the parameters of a model among all ranks; each becomes a `DTensor`.

    Args:
        model: Model with the same weights on every rank.
        blocks: Modules that are gathered one by one; the remaining parameters form one more unit.
            A block is read in `forward` and the methods that its attribute `entries` names.
        ranks: Several ranks.

    Returns:
        The module to run forward passes in. A backward pass leaves in every parameter's `grad` this
        rank's part of the gradient: the sum over context ranks, the mean over data ranks.
    """
    mesh = ranks.flat_mesh
    assert mesh is not None, "one rank has nothing to divide its parameters among"
    entry = Entry(model, ranks)
    examples = ranks.count // ranks.context_ranks
    for block in blocks:
        _sharded(block, mesh, examples)
        for name in getattr(block, "entries", ()):
            register_fsdp_forward_method(block, name)
    _sharded(entry, mesh, examples)
    return entry


class _CountedAllGather(DefaultAllGather):
    """Gather of parameters, counted in the ledger."""

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        async_op: bool = False,
    ) -> dist.Work | None:
        with _counted("all_gather", input_tensor, group):
            return super().__call__(output_tensor, input_tensor, group, async_op)


class _CountedReduceScatter(DefaultReduceScatter):
    """Sum and scatter of gradients, counted in the ledger."""

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> dist.Work:
        with _counted("reduce_scatter", output_tensor, group):
            return super().__call__(output_tensor, input_tensor, group, op, async_op)


@contextmanager
def _counted(kind: str, part: Tensor, group: dist.ProcessGroup) -> Iterator[None]:
    """Count an operation in which each rank sends a part to every other one."""
    others = group.size() - 1
    direction = "forward" if torch._C._current_graph_task_id() < 0 else "backward"
    nbytes = others * part.numel() * part.element_size()
    key = LEDGER.count(OPERATOR, direction, kind, nbytes, others)
    start = perf_counter()
    yield
    LEDGER.wait(key, perf_counter() - start)


def _sharded(module: nn.Module, mesh: DeviceMesh, examples: int) -> None:
    unit = fully_shard(module, mesh=mesh, reshard_after_forward=True)
    assert isinstance(unit, FSDPModule)
    unit.set_gradient_divide_factor(float(examples))
    # Sums alone: gloo has no reduction that scales.
    unit.set_force_sum_reduction_for_comms(True)
    unit.set_custom_all_gather(_CountedAllGather())
    unit.set_custom_reduce_scatter(_CountedReduceScatter())
