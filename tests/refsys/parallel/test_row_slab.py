"""Moves of a row slab: each equals its definition on the whole tensor, and has its exact dual."""

from itertools import pairwise

import pytest
import torch
from support.moves import BATCH, CHANNELS, MOVES, TOKEN, TOKEN_VALUES, TOKENS
from support.rank_threads import on_ranks

from refsys.errors import ArgumentError
from refsys.parallel.collectives import GroupExchange
from refsys.parallel.ledger import Ledger
from refsys.parallel.row_slab import RowSlab
from refsys.parallel.shares import AtomShares, shares


def slab(chunks=1):
    exchange = GroupExchange(ledger=Ledger())
    return RowSlab(TOKENS, exchange, AtomShares.of(TOKEN.numpy(), exchange.ranks), chunks=chunks)


@pytest.mark.parametrize("ranks", [2, 3, 6, 9])
@pytest.mark.parametrize("name", MOVES)
def test_move_equals_its_definition_and_has_its_exact_dual(name, ranks):
    whole, own, move, definition = MOVES[name]

    def program(rank):
        layout = slab(chunks=2)
        x = own(layout, whole).clone().requires_grad_()
        moved = move(layout, x)
        assert torch.equal(moved, definition(layout, whole)) or name == "by_channels"
        torch.testing.assert_close(moved, definition(layout, whole), rtol=1e-13, atol=1e-13)
        y = torch.randn(moved.shape, generator=torch.Generator().manual_seed(rank)).double()
        (dual,) = torch.autograd.grad(moved, x, y)
        return (moved * y).sum().detach(), (x * dual).sum().detach()

    pairs = on_ranks(ranks, program)
    forward, backward = (sum(float(pair[i]) for pair in pairs) for i in range(2))
    assert forward == pytest.approx(backward, rel=1e-12)


@pytest.mark.parametrize("ranks", [2, 3, 6, 9])
def test_sum_to_tokens_is_the_dual_of_tokens_of_atoms(ranks):
    def program(rank):
        layout = slab()
        mine = layout.local(TOKEN_VALUES, 2)
        interval = torch.randn(
            BATCH,
            2,
            layout.atom_tokens[1] - layout.atom_tokens[0],
            CHANNELS,
            generator=torch.Generator().manual_seed(rank),
            dtype=torch.float64,
        ).requires_grad_()
        summed = layout.sum_to_tokens(interval, 2)
        (dual,) = torch.autograd.grad(summed, interval, mine)
        assert torch.equal(dual, layout.tokens_of_atoms(mine, 2))
        taken = layout.tokens_of_atoms(mine, 2)
        return (taken * interval).sum().detach(), (mine * summed).sum().detach()

    pairs = on_ranks(ranks, program)
    assert sum(float(a) for a, _ in pairs) == pytest.approx(sum(float(b) for _, b in pairs))


def test_sum_over_ranks_has_the_same_bits_everywhere_and_one_gradient():
    def program(rank):
        x = torch.tensor([rank + 0.25], dtype=torch.float64, requires_grad=True)
        total = slab().sum_ranks(x)
        (gradient,) = torch.autograd.grad((total * 3).sum(), x)
        return float(total.detach()), float(gradient)

    assert set(on_ranks(6, program)) == {(16.5, 3.0)}


def test_slabs_are_contiguous_and_differ_by_one_at_most():
    for count in (9, 22, 64):
        for ranks in (1, 2, 5, 9):
            parts = shares(count, ranks)
            assert [parts[0][0], parts[-1][1]] == [0, count]
            assert all(a[1] == b[0] for a, b in pairwise(parts))
            lengths = {stop - start for start, stop in parts}
            assert max(lengths) - min(lengths) <= 1


def test_too_few_tokens_or_atoms_are_refused():
    with pytest.raises(ArgumentError, match="32 atoms are 1 windows of 32, too few for 2 ranks"):
        AtomShares.of(TOKEN[:, :32].numpy(), 2)

    def program(rank):
        with pytest.raises(ArgumentError, match="1 tokens are too few for 2 ranks"):
            RowSlab(1, GroupExchange(ledger=Ledger()))

    on_ranks(2, program)
