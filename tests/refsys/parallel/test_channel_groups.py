"""Channel groups: values and gradients of one rank, and traffic in closed form."""

from functools import cache, partial

import pytest
import torch
from support.rank_threads import on_ranks
from support.schemes import (
    BATCH,
    ITEM,
    Multiplications,
    divided,
    inputs,
    pair_block,
    relative_error,
    serial,
    step,
)
from support.volumes import Moves, Volume, volumes_of
from torch._subclasses.fake_tensor import FakeTensorMode

from refsys.config import preset
from refsys.costs.collectives import fake_process_group
from refsys.errors import ArgumentError
from refsys.ops.triangle_multiplication import contraction
from refsys.parallel import RowSlab, channel_groups
from refsys.parallel.channel_groups import BlockGrid
from refsys.parallel.collectives import GroupExchange
from refsys.parallel.exchanges import row_slab_layouts
from refsys.parallel.hierarchical import HierarchicalExchange
from refsys.parallel.ledger import Ledger
from refsys.run_config import ParallelOptions

TOLERANCE = 1e-10


def slab(grid, chunks=1):
    """Return a constructor of a row slab with such groups."""
    return partial(RowSlab, grid_of=lambda channels: grid, chunks=chunks)


@cache
def one_rank(channels, tokens):
    return serial(partial(Multiplications, channels), tokens, channels)


# Ranks, channels, tokens, groups, chunks; the ranks divide no tokens.
CASES = [
    (6, 3, 13, BlockGrid(1, 2), 1),
    (6, 3, 13, BlockGrid(2, 1), 1),
    (8, 2, 11, BlockGrid(2, 2), 1),
    (8, 2, 11, BlockGrid(1, 4), 1),
    # Ranks with several channels in chunks, and ranks without channels.
    (4, 5, 7, BlockGrid(1, 2), 2),
    (6, 2, 9, BlockGrid(2, 1), 1),
]


@pytest.mark.parametrize(("ranks", "channels", "tokens", "grid", "chunks"), CASES)
def test_groups_have_the_values_and_gradients_of_one_rank(ranks, channels, tokens, grid, chunks):
    make, expected = partial(Multiplications, channels), one_rank(channels, tokens)
    result = divided(make, slab(grid, chunks), ranks, tokens, channels)
    assert relative_error(result.out, expected.out) < TOLERANCE
    assert relative_error(result.gradient, expected.gradient) < TOLERANCE
    for name, gradient in expected.parameters.items():
        assert relative_error(result.parameters[name], gradient) < TOLERANCE, name


@pytest.mark.parametrize(("ranks", "channels", "tokens", "grid", "chunks"), CASES)
def test_traffic_of_each_rank_equals_its_closed_form(ranks, channels, tokens, grid, chunks):
    make = partial(Multiplications, channels)
    result = divided(make, slab(grid, chunks), ranks, tokens, channels)
    for rank, traffic in enumerate(result.traffic):
        moves = Moves(tokens, rank, ranks)
        forms = [moves.by_channel_groups(channels, grid, outgoing=way) for way in (True, False)]
        volume = (forms[0] + forms[1]) * BATCH * ITEM
        assert traffic["forward", "nbytes"] == volume.forward
        assert traffic["backward", "nbytes"] == volume.backward


@pytest.mark.parametrize(("grid", "outgoing"), [(BlockGrid(2, 4), True), (BlockGrid(1, 2), False)])
def test_groups_of_many_ranks_send_the_closed_form_when_traced(grid, outgoing):
    """On 32 ranks and as many channels as a group has ranks; tokens are not divided evenly."""
    ranks, rank, tokens = 32, 21, 35
    channels, ledger = ranks // grid.groups, Ledger()
    with fake_process_group(ranks, rank), FakeTensorMode():
        layout = slab(grid)(tokens, GroupExchange(ledger=ledger)).named("product")
        shape = 1, layout.stop - layout.start, tokens, channels
        a, b = (torch.empty(shape, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
        with ledger.during("forward"):
            function = partial(contraction, outgoing=outgoing, backend="reference")
            out = layout.by_channels(function, a, b, outgoing=outgoing)
        with ledger.during("backward"):
            out.sum().backward()
    form = Moves(tokens, rank, ranks).by_channel_groups(channels, grid, outgoing=outgoing)
    assert volumes_of(ledger) == {"product": form * 2}


@pytest.mark.parametrize(
    "grid", [BlockGrid(1, 1), BlockGrid(1, 2), BlockGrid(2, 2), (2, 4), (4, 4)]
)
def test_pair_block_sends_no_more_than_its_bound(grid):
    """(2 (g_i + g_j + 1) + 2) U + 2 h (P − 1) U forward, with P = g c ranks that divide N."""
    grid, c, heads = BlockGrid(*grid), 4, 2
    ranks = grid.groups * c
    tokens = 2 * ranks
    unit, h = tokens**2 * c // ranks, heads / c
    bound = (2 * (sum(grid) + 1) + 2) * unit + 2 * h * (ranks - 1) * unit
    volumes = []
    for rank in range(ranks):
        moves = Moves(tokens, rank, ranks)
        parts = [moves.by_channel_groups(c, grid, outgoing=way) for way in (True, False)]
        parts += [moves.swap(c)] * 2 + [moves.gather_pairs(heads)] * 2
        volumes.append(sum(parts, Volume()))
    assert max(v.forward for v in volumes) <= bound
    # What ranks keep is all that is missing.
    assert sum(v.forward for v in volumes) > ranks * (bound - (sum(grid) + 3) * unit)


@pytest.mark.parametrize(("ranks", "channels", "grid"), [(6, 3, (1, 2)), (8, 2, (2, 2))])
def test_groups_divide_products_that_one_group_leaves_to_some_ranks(ranks, channels, grid):
    """Elements of the busiest rank's operands and product; with one group g times U of each."""
    grid, tokens = BlockGrid(*grid), 2 * ranks
    unit = tokens**2 * channels // ranks

    def busiest(grid):
        def program(_rank):
            layout, elements = slab(grid)(tokens, GroupExchange(ledger=Ledger())), []

            def function(a, b):
                out = contraction(a, b, outgoing=True)
                elements.append((a.numel() + b.numel(), out.numel()))
                return out

            x = torch.ones(1, layout.stop - layout.start, tokens, channels)
            layout.by_channels(function, x, x, outgoing=True)
            return elements

        counts = [count for of_rank in on_ranks(ranks, program) for count in of_rank]
        return tuple(map(max, zip(*counts, strict=True)))

    assert busiest(BlockGrid()) == (2 * grid.groups * unit, grid.groups * unit)
    assert busiest(grid) == (sum(grid) * unit, unit)


def test_hierarchical_exchange_gives_the_bits_of_the_plain_one():
    ranks, channels, tokens, grid = 8, 2, 11, BlockGrid(2, 2)
    whole = inputs(tokens, channels)

    def program(_rank):
        results = []
        for exchange in (GroupExchange(ledger=Ledger()), HierarchicalExchange(2, ledger=Ledger())):
            layout = slab(grid)(tokens, exchange)
            region = slice(None), slice(layout.start, layout.stop)
            make = partial(Multiplications, channels)
            results.append(step(make, layout, *(x[region] for x in whole)))
        (out, gradient, parameters), (other, other_gradient, others) = results
        assert torch.equal(out, other)
        assert torch.equal(gradient, other_gradient)
        assert all(torch.equal(p, others[name]) for name, p in parameters.items())

    on_ranks(ranks, program)


def test_pair_block_on_groups_equals_one_rank():
    make = partial(pair_block, 2, 1)
    expected = serial(make, 9, 2)
    result = divided(make, slab(BlockGrid(2, 2)), 8, 9, 2)
    assert relative_error(result.out, expected.out) < TOLERANCE
    assert relative_error(result.gradient, expected.gradient) < TOLERANCE


class OneCopy(channel_groups._Copies):
    """The gradient is that of the first copy alone."""

    @staticmethod
    def backward(ctx, *grads):
        first = grads[: len(grads) // ctx.copies]
        return channel_groups._Copies._joined(ctx, first), None, None, None, None


def test_gradient_of_one_copy_alone_is_found(monkeypatch):
    monkeypatch.setattr(channel_groups, "_Copies", OneCopy)
    result = divided(partial(Multiplications, 3), slab(BlockGrid(1, 2)), 6, 13, 3)
    expected = one_rank(3, 13)
    assert relative_error(result.out, expected.out) < TOLERANCE
    assert relative_error(result.gradient, expected.gradient) > 0.01


def test_groups_that_do_not_divide_the_ranks_or_the_tokens_are_refused():
    def program(_rank):
        x = torch.ones(1, 1, 4, 2)
        for grid, message in (
            (BlockGrid(1, 3), "1 x 3 groups do not divide 4 ranks"),
            (BlockGrid(5, 4), "5 x 4 groups do not divide 4 ranks"),
        ):
            layout = slab(grid)(4, GroupExchange(ledger=Ledger()))
            with pytest.raises(ArgumentError, match=message):
                layout.by_channels(torch.mul, x, x, outgoing=True)

    on_ranks(4, program)


@pytest.mark.parametrize(
    ("options", "channels", "grid"),
    [
        ({}, 8, BlockGrid(1, 1)),
        ({}, 4, BlockGrid(1, 2)),
        ({}, 2, BlockGrid(2, 2)),
        ({"channel_groups": 1}, 2, BlockGrid(1, 1)),
        ({"channel_groups": 4}, 8, BlockGrid(2, 2)),
    ],
)
def test_options_choose_the_groups(options, channels, grid):
    """With as many channels as ranks or more there is one group by default."""
    parallel = ParallelOptions(context_ranks=8, **options)
    with fake_process_group(8):
        layouts = row_slab_layouts(parallel, preset("tiny"), 30_720)
    assert layouts._grid_of(channels) == grid


def test_groups_that_do_not_divide_the_context_ranks_are_refused():
    parallel = ParallelOptions(context_ranks=8, channel_groups=3)
    with pytest.raises(ArgumentError, match="channel_groups=3 do not divide 8 context ranks"):
        row_slab_layouts(parallel, preset("tiny"), 64)
