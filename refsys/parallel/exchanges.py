"""Exchange and channel groups of a run, by its options and its predicted times."""

import os
from functools import cache, partial

import torch.distributed as dist

from refsys.config import ModelConfig
from refsys.errors import ArgumentError
from refsys.parallel.agreement import Agreement
from refsys.parallel.batch_layouts import RowSlabLayouts
from refsys.parallel.channel_groups import BlockGrid
from refsys.parallel.collectives import GroupExchange
from refsys.parallel.hierarchical import HierarchicalExchange
from refsys.parallel.schedule import HIERARCHICAL, PLAIN, PairShape, choose, squarest
from refsys.run_config import ParallelOptions


def launched_node_ranks() -> int:
    """Return the ranks that `torchrun` started on this machine; 0 without a launcher."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "0"))


def row_slab_layouts(
    parallel: ParallelOptions,
    model: ModelConfig,
    tokens: int,
    group: dist.ProcessGroup | None = None,
    agreement: Agreement | None = None,
    *,
    itemsize: int = 4,
    traced: bool = False,
) -> RowSlabLayouts:
    """Return the layouts of one rank of a context group.

    Args:
        parallel: Ranks, and how they exchange.
        model: Hyper-parameters of the model.
        tokens: Tokens of an example, on which an automatic choice rests.
        group: Context group; all ranks if None.
        agreement: See `RowSlabLayouts`.
        itemsize: Bytes of an element of the pair representation.
        traced: Whether the batches are placeholders; the ranks of a node are then those of the
            options alone, one node if they state none.

    Raises:
        ArgumentError: the ranks are no whole nodes, or groups do not divide them.
    """
    node_ranks = parallel.node_ranks or (0 if traced else launched_node_ranks())
    shape = PairShape(model.c_z, model.pair_heads, itemsize)
    grid_of = cache(partial(_grid, parallel, node_ranks, shape, tokens))
    if parallel.channel_groups > 1 and parallel.context_ranks % parallel.channel_groups:
        raise ArgumentError(
            f"channel_groups={parallel.channel_groups} do not divide "
            f"{parallel.context_ranks} context ranks; take a divisor, or 0 for an automatic choice"
        )
    return RowSlabLayouts(
        _exchange(parallel, node_ranks, shape, tokens, group),
        chunks=parallel.exchange_chunks,
        traced=traced,
        agreement=agreement,
        grid_of=grid_of,
    )


def _exchange(
    parallel: ParallelOptions,
    node_ranks: int,
    shape: PairShape,
    tokens: int,
    group: dist.ProcessGroup | None,
) -> GroupExchange:
    ranks = parallel.context_ranks
    if parallel.exchange == PLAIN or not 1 < node_ranks < ranks:
        return GroupExchange(group)
    if parallel.exchange == HIERARCHICAL:
        return HierarchicalExchange(node_ranks, group)
    if ranks % node_ranks or tokens < ranks:
        return GroupExchange(group)
    chosen = choose(tokens, ranks, node_ranks, shape=shape).divided
    if chosen.exchange == PLAIN:
        return GroupExchange(group)
    return HierarchicalExchange(node_ranks, group)


def _grid(
    parallel: ParallelOptions, node_ranks: int, shape: PairShape, tokens: int, channels: int
) -> BlockGrid:
    """Return the groups that divide the products of so many channels."""
    ranks = parallel.context_ranks
    if parallel.channel_groups:
        return squarest(parallel.channel_groups)
    if ranks <= channels:
        return BlockGrid()
    shape = PairShape(channels, shape.heads, shape.itemsize)
    return choose(tokens, ranks, node_ranks or ranks, shape=shape).divided.grid
