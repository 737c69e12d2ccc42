"""Parameters, gradients and optimizer state divided among all ranks, by torch's FSDP2.

Each rank of the mesh, data and context, holds a part of every parameter. The parameters of a block
are gathered before it runs, and their gradients are summed and scattered after its backward pass;
the parameters outside of blocks are gathered once a step.

FSDP2 supports one outermost call a step, while a step of AlphaFold 3 enters its model several
times. All of a forward pass therefore runs inside one call of an `Entry`.

The optimizer works on the local parts, which are plain tensors: torch 2.13 plans the operators of
Adam on a list of `DTensor` in a time that is quadratic in its length, 53 s for 1,600 of them; the
full model has 2,930 parameters.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.fsdp._fully_shard._fsdp_collectives import (
    DefaultAllGather,
    DefaultReduceScatter,
)
from torch.distributed.tensor import DTensor

from refsys.parallel.blocks import Block
from refsys.parallel.collectives import all_reduce_begin
from refsys.parallel.ledger import LEDGER
from refsys.parallel.mesh import RunRanks
from refsys.parallel.monitor import watching

# Name under which the communication is counted.
OPERATOR = "parameters"


class Entry(nn.Module):
    """Outermost module of a sharded model, inside whose call a forward pass runs.

    Attributes:
        model: The model, whose parameters are sharded.
        ranks: Ranks that share them.
        parts: This rank's part of each trained parameter, which the optimizer changes in place;
            some are empty.
    """

    def __init__(self, model: nn.Module, ranks: RunRanks) -> None:
        super().__init__()
        self.model = model
        self.ranks = ranks
        self.parts: list[nn.Parameter] = []

    def forward(self, run: Callable[[], Tensor]) -> Tensor:
        """Return `run()`, a scalar loss, with the parameters outside of blocks gathered."""
        return run()

    def take_parts(self) -> None:
        """Set `parts`, once the parameters are sharded."""
        self.parts = [nn.Parameter(parameter.to_local()) for parameter in self._trained()]

    @torch.no_grad()
    def clip_gradients(self, largest: float) -> Tensor:
        """Move the gradients of a backward pass to the parts and clip their global norm.

        Args:
            largest: Norm above which gradients are scaled down.

        Returns:
            The global norm before clipping, the same on every rank.
        """
        for part, parameter in zip(self.parts, self._trained(), strict=True):
            local = parameter.to_local()
            # FSDP compares addresses, which fake tensors lack, and then replaces padded parts.
            assert isinstance(local, FakeTensor) or part.data_ptr() == local.data_ptr(), (
                "a part has moved"
            )
            gradient, parameter.grad = parameter.grad, None
            assert gradient is None or isinstance(gradient, DTensor)
            part.grad = None if gradient is None else gradient.to_local()
        gradients = [part.grad for part in self.parts if part.grad is not None]
        square = nn.utils.get_total_norm(gradients, foreach=True).square()
        all_reduce_begin(square).wait()
        norm = square.sqrt()
        nn.utils.clip_grads_with_norm_(self.parts, largest, norm, foreach=True)
        return norm

    def of_all_ranks(self, values: Sequence[Tensor]) -> list[DTensor]:
        """Return tensors of every rank, one for each of `parts`, as sharded tensors."""
        return [
            DTensor.from_local(
                value,
                parameter.device_mesh,
                parameter.placements,
                run_check=False,
                shape=parameter.shape,
                stride=parameter.stride(),
            )
            for value, parameter in zip(values, self._trained(), strict=True)
        ]

    def _trained(self) -> list[DTensor]:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        sharded: list[DTensor] = [p for p in trained if isinstance(p, DTensor)]
        assert len(sharded) == len(trained), "a parameter outside of the blocks is not sharded"
        return sharded


def shard(model: nn.Module, blocks: Sequence[Block], ranks: RunRanks) -> Entry:
    """Divide the parameters of a model among all ranks; each becomes a `DTensor`.

    Args:
        model: Model with the same weights on every rank.
        blocks: Modules whose parameters are gathered one by one; the others are gathered together.
        ranks: Several ranks, joined with `shard_parameters`.

    Returns:
        The module to run forward passes in. After a backward pass every parameter's `grad` is this
        rank's part of the gradient: the sum over context ranks, the mean over data ranks.
    """
    mesh = ranks.flat_mesh
    assert mesh is not None, "one rank has nothing to divide its parameters among"
    entry = Entry(model, ranks)
    examples = ranks.count // ranks.context_ranks
    # Some blocks return an input unchanged. None is changed in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    for block in blocks:
        _wrap(block, mesh, examples, keep_gathered=block.repeated)
        for name in block.entries:
            register_fsdp_forward_method(block, name)
    _wrap(entry, mesh, examples, keep_gathered=True)
    entry.take_parts()
    return entry


def _wrap(module: nn.Module, mesh: DeviceMesh, examples: int, *, keep_gathered: bool) -> None:
    unit = fully_shard(module, mesh=mesh, reshard_after_forward=not keep_gathered)
    unit.set_gradient_divide_factor(float(examples))
    # Sums alone: gloo has no reduction that scales.
    unit.set_force_sum_reduction_for_comms(True)
    unit.set_custom_all_gather(_CountedAllGather())
    unit.set_custom_reduce_scatter(_CountedReduceScatter())


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
    with watching(key, group):
        yield
    LEDGER.wait(key, perf_counter() - start)
