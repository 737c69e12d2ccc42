"""Bytes that a rank sends at 64 and 128 ranks, traced: each move equals its closed form.

`test_whole_step` compares every operator of a step on real ranks.
"""

import pytest
import torch
from support.volumes import Moves, Operators, Volume, volumes_of
from torch._subclasses.fake_tensor import FakeTensorMode

from refsys.config import PRESETS
from refsys.costs.collectives import fake_process_group
from refsys.parallel import RowSlab
from refsys.parallel.collectives import GroupExchange
from refsys.parallel.ledger import Ledger
from refsys.parallel.shares import AtomShares
from refsys.precision import PRECISIONS

WIDTH, ITEM = 3, 2


def moves_of(layout, channels):
    """Return each move, the shape of what it is given, and its closed form."""
    rows, tokens = layout.stop - layout.start, layout.tokens
    single, pairs = (1, rows, WIDTH), (1, rows, tokens, WIDTH)
    atoms = (1, layout.atom_stop - layout.atom_start, WIDTH)
    of_atoms = (1, layout.atom_tokens[1] - layout.atom_tokens[0], WIDTH)

    def multiply(x):
        return layout.by_channels(torch.mul, x, x * 2, outgoing=True)

    def stream(x):
        return torch.cat(list(layout.stream(x, 1)), dim=1)

    return {
        "gather": (lambda x: layout.gather_tokens(x, 1), single, lambda m: m.gather(WIDTH)),
        "stream": (stream, pairs, lambda m: m.gather_pairs(WIDTH)),
        "swap": (layout.rows_to_columns, pairs, lambda m: m.swap(WIDTH)),
        "channels": (
            multiply,
            (1, rows, tokens, channels),
            lambda m: m.to_channels(channels) * 2 + m.to_rows(channels),
        ),
        "atoms": (lambda x: layout.gather_atoms(x, 1), atoms, lambda m: m.gather_atoms(WIDTH)),
        "halo": (lambda x: layout.halo(x, 1, 48), atoms, lambda m: m.halo(WIDTH)),
        "interval": (
            lambda x: layout.tokens_of_atoms(x, 1),
            single,
            lambda m: m.tokens_of_atoms(WIDTH),
        ),
        "sums": (lambda x: layout.sum_to_tokens(x, 1), of_atoms, lambda m: m.sum_to_tokens(WIDTH)),
        "pairs": (layout.pairs_of_atoms, pairs, lambda m: m.pairs_of_atoms(WIDTH)),
        "ranks": (layout.sum_ranks, (WIDTH,), lambda m: m.sum_ranks(WIDTH)),
    }


@pytest.mark.parametrize(("ranks", "rank"), [(64, 37), (128, 2)])
def test_each_move_sends_what_its_closed_form_gives(ranks, rank):
    """Neither tokens, nor channels, nor windows of atoms divide by the ranks."""
    tokens, channels = ranks + 7, ranks + 5
    atoms = AtomShares.uniform(32 * (ranks + 3), tokens, ranks)
    ledger, expected = Ledger(), {}
    moves = Moves(tokens, rank, ranks, atoms)
    with fake_process_group(ranks, rank), FakeTensorMode():
        layout = RowSlab(tokens, GroupExchange(ledger=ledger), atoms)
        for name, (move, shape, form) in moves_of(layout, channels).items():
            layout._operator = name
            x = torch.empty(shape, dtype=torch.bfloat16, requires_grad=True)
            with ledger.during("forward"):
                out = move(x)
            with ledger.during("backward"):
                out.sum().backward()
            expected[name] = form(moves) * ITEM
    assert volumes_of(ledger) == expected


@pytest.mark.parametrize("ranks", [2, 4, 8, 16, 32, 64, 128])
def test_pair_block_sends_no_more_than_the_bound(ranks):
    """On every rank 8 U (P − 1)/P + 2 h (P − 1) U forward, where P divides tokens and channels."""
    tokens, config = 256, PRESETS["full"]
    c, heads = config.c_z, config.pair_heads
    unit = tokens**2 * c * ITEM // ranks
    bound = 8 * unit * (ranks - 1) // ranks + 2 * heads * (ranks - 1) * unit // c
    for rank in range(ranks):
        operators = Operators(Moves(tokens, rank, ranks), config, PRECISIONS["bfloat16"])
        total = sum(operators.pair_stack(c).values(), Volume())
        assert total.forward <= bound
