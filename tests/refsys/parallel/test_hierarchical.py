"""Exchange in two stages: the bits of a plain exchange, and the traffic of each stage."""

from collections import Counter
from functools import partial

import pytest
import torch
from support.moves import MOVES, TOKEN, TOKENS
from support.rank_threads import on_ranks

from refsys.config import preset
from refsys.costs.collectives import fake_process_group
from refsys.errors import ArgumentError
from refsys.parallel import RowSlab, hierarchical
from refsys.parallel.collectives import GroupExchange
from refsys.parallel.exchanges import row_slab_layouts
from refsys.parallel.hierarchical import ACROSS, INSIDE, HierarchicalExchange, RelayedTransfer
from refsys.parallel.ledger import Ledger
from refsys.parallel.shares import AtomShares
from refsys.run_config import ParallelOptions

# Nodes, and ranks of a node.
NODES = (2, 2), (2, 3), (3, 2), (3, 3)
KINDS = {False: INSIDE, True: ACROSS}


def differentiated(exchange):
    """Return the result of each move and the gradient of its input, on one rank."""
    layout = RowSlab(TOKENS, exchange, AtomShares.of(TOKEN.numpy(), exchange.ranks), chunks=2)
    generator = torch.Generator().manual_seed(exchange.rank)
    results = {}
    for name, (whole, own, move, _definition) in MOVES.items():
        x = own(layout, whole).clone().requires_grad_()
        moved = move(layout, x)
        cotangent = torch.randn(moved.shape, generator=generator, dtype=moved.dtype)
        results[name] = moved.detach(), *torch.autograd.grad(moved, x, cotangent)
    return results


@pytest.mark.parametrize(("nodes", "width"), NODES)
def test_moves_and_gradients_have_the_bits_of_plain_exchanges(nodes, width):
    def program(_rank):
        plain = differentiated(GroupExchange(ledger=Ledger()))
        ledger = Ledger()
        staged = differentiated(HierarchicalExchange(width, ledger=ledger))
        for name, tensors in plain.items():
            assert all(map(torch.equal, tensors, staged[name])), name
        return {key.kind for key in ledger.entries()}

    # The stream alone sends its parts directly.
    kinds = {INSIDE, ACROSS, "all_to_all"}
    assert on_ranks(nodes * width, program) == [kinds] * (nodes * width)


def counts(ranks):
    """Return how many elements each rank sends to each other one; a third of the parts is empty.

    Rank 1 sends nothing, and rank 0 receives nothing.
    """
    table = torch.randint(0, 9, (ranks, ranks), generator=torch.Generator().manual_seed(ranks))
    table = (table - 3).clamp(min=0)
    table[1], table[:, 0] = 0, 0
    return table.tolist()


def parts_of(table, rank):
    """Return parts whose elements are all different; position p for a target is 100 target + p."""
    return [
        torch.arange(n, dtype=torch.float64).add_(1000 * rank + 100 * target).requires_grad_()
        for target, n in enumerate(table[rank])
    ]


def exchanged(exchange, table, rank):
    """Return what a rank receives, and the gradients of what it sends."""
    parts = parts_of(table, rank)
    shapes = [(row[rank],) for row in table]
    received = exchange.begin(
        parts, shapes, "test", sizes=lambda source, target: table[source][target]
    ).wait()
    loss = sum((part * part).sum() / 2 for part in received)
    gradients = torch.autograd.grad(loss, parts, allow_unused=True)
    return received, gradients


@pytest.mark.parametrize(("nodes", "width"), NODES)
def test_parts_of_any_size_arrive_and_their_gradients_return(nodes, width):
    table = counts(nodes * width)

    def program(rank):
        received, gradients = exchanged(HierarchicalExchange(width, ledger=Ledger()), table, rank)
        for source, part in enumerate(received):
            assert torch.equal(part, parts_of(table, source)[rank])
        for part, gradient in zip(parts_of(table, rank), gradients, strict=True):
            assert gradient is None or torch.equal(gradient, part)
            assert gradient is not None or not part.numel()

    on_ranks(nodes * width, program)


def expected(table, rank, width, *, backward):
    """Return elements and messages of a rank by stage, in closed form."""
    ranks = len(table)
    size = (lambda s, t: table[t][s]) if backward else (lambda s, t: table[s][t])
    node, local = divmod(rank, width)
    total = Counter()
    for other in (q for q in range(ranks) if q != rank):
        if other // width == node:
            # All that the other one's counterparts get of this rank.
            sent = sum(size(rank, q) for q in range(other % width, ranks, width))
        elif other % width == local:
            # All that the node has for the other one.
            sent = sum(size(q, other) for q in range(node * width, (node + 1) * width))
        else:
            continue
        kind = KINDS[other // width != node]
        total[kind, "nbytes"] += 8 * sent
        total[kind, "messages"] += sent > 0
    return {key: count for key, count in total.items() if count}


@pytest.mark.parametrize(("nodes", "width"), NODES)
def test_traffic_of_each_stage_is_that_of_its_closed_form(nodes, width):
    table = counts(nodes * width)

    def program(rank):
        ledger = Ledger()
        exchanged(HierarchicalExchange(width, ledger=ledger), table, rank)
        for direction in ("forward", "backward"):
            found = Counter()
            for key, traffic in ledger.entries().items():
                if key.direction == direction:
                    found[key.kind, "nbytes"] += traffic.nbytes
                    found[key.kind, "messages"] += traffic.messages
                    assert traffic.calls == 1
            form = expected(table, rank, width, backward=direction == "backward")
            assert {key: count for key, count in found.items() if count} == form
            assert found[ACROSS, "messages"] <= nodes - 1
            assert found[INSIDE, "messages"] <= width - 1

    on_ranks(nodes * width, program)


@pytest.mark.parametrize(("nodes", "width"), NODES)
def test_bytes_across_nodes_are_those_of_a_plain_exchange(nodes, width):
    """Over all ranks; the bytes of the stages in closed form are measured above."""
    ranks = nodes * width
    table = counts(ranks)
    staged = [expected(table, rank, width, backward=False) for rank in range(ranks)]
    across = sum(form.get((ACROSS, "nbytes"), 0) for form in staged)
    crossing = (table[s][t] for s in range(ranks) for t in range(ranks) if s // width != t // width)
    assert across == 8 * sum(crossing)


def test_sizes_that_do_not_fit_the_parts_are_refused():
    def program(_rank):
        exchange = HierarchicalExchange(2, ledger=Ledger())
        parts, shapes = [torch.ones(2)] * 4, [(2,)] * 4
        with pytest.raises(ArgumentError, match="sizes known to every rank are"):
            exchange.begin(parts, shapes, "test", sizes=lambda source, _target: 2 + (source == 3))

    on_ranks(4, program)


class ForwardSizes(RelayedTransfer):
    """The gradients are taken to have the sizes of what the rank sent."""

    def _size(self, source, target, *, backward=False):
        return super()._size(source, target)


def test_gradients_with_the_sizes_of_the_forward_pass_are_found(monkeypatch):
    monkeypatch.setattr(hierarchical, "RelayedTransfer", ForwardSizes)
    table = counts(6)
    program = partial(exchanged_on, table)
    with pytest.raises(RuntimeError):
        on_ranks(6, program)


def exchanged_on(table, rank):
    return exchanged(HierarchicalExchange(3, ledger=Ledger()), table, rank)


def test_ranks_that_are_no_whole_nodes_are_refused():
    def program(_rank):
        with pytest.raises(ArgumentError, match="4 ranks are no whole nodes of 3"):
            HierarchicalExchange(3)

    on_ranks(4, program)


@pytest.mark.parametrize(
    ("options", "launched", "traced", "node_ranks"),
    [
        ({}, None, False, None),
        ({}, "8", False, None),
        ({}, "4", False, 4),
        ({}, "4", True, None),
        ({}, "3", False, None),
        ({"exchange": "plain"}, "4", False, None),
        ({"exchange": "hierarchical"}, "4", False, 4),
        ({"exchange": "hierarchical"}, None, False, None),
        ({"exchange": "hierarchical", "node_ranks": 2}, "4", False, 2),
        ({"exchange": "hierarchical", "node_ranks": 2}, None, True, 2),
        ({"node_ranks": 1}, "4", False, None),
    ],
)
def test_options_choose_the_exchange(monkeypatch, options, launched, traced, node_ranks):
    """With 64 tokens the messages' latency is most of the time."""
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if launched:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", launched)
    parallel = ParallelOptions(context_ranks=8, **options)
    with fake_process_group(8):
        layouts = row_slab_layouts(parallel, preset("tiny"), 64, traced=traced)
    exchange = layouts._exchange
    assert getattr(exchange, "node_ranks", None) == node_ranks
