"""Moves in pieces of rows: each equals the move at once, and sends the same bytes."""

from functools import partial

import pytest
import torch
from support.rank_threads import on_ranks

from refsys.parallel import SingleRank
from refsys.parallel.collectives import GroupExchange
from refsys.parallel.ledger import Ledger
from refsys.parallel.row_slab import RowSlab
from refsys.parallel.schemes.dap import DAP

# Some ranks divide the tokens and some do not; five channels leave the last of six ranks without.
TOKENS, CHANNELS, BATCH = 24, 5, 2
PAIRS = torch.randn(
    BATCH, TOKENS, TOKENS, CHANNELS, generator=torch.Generator().manual_seed(0)
).double()


def heads(z):
    """Return a function local to each row, with rows as axis 2."""
    return z[..., :2].cos().permute(0, 3, 1, 2)


def product(outgoing, a, b):
    return torch.einsum("bikc,bjkc->bijc" if outgoing else "bkic,bkjc->bijc", a, b)


def multiplied(layout, z, size, outgoing):
    function = partial(product, outgoing)
    if not size:
        return layout.by_channels(function, z, z.sin(), outgoing=outgoing)
    rows = (lambda first, last: (z[:, first:last], z[:, first:last].sin())), size
    return layout.by_channels_in_pieces(function, *rows, outgoing=outgoing)


def swapped_back(layout, z, size):
    """Return the columns of the slab, and the slab again, written over a tensor of its size."""
    if not size:
        columns = layout.rows_to_columns(z)
        return torch.stack([columns, layout.columns_to_rows(columns)])
    columns = layout.swap_in_pieces(z, size)
    return torch.stack([columns, layout.swap_in_pieces(columns, size, torch.empty_like(z))])


# Each move from the layout, the owned rows, and the rows of a piece or 0 for all at once.
MOVES = {
    "gather": lambda layout, z, size: (
        layout.gather_in_pieces(heads, z, 2, size) if size else layout.gather_tokens(heads(z), 2)
    ),
    "swap": swapped_back,
    "outgoing": partial(multiplied, outgoing=True),
    "incoming": partial(multiplied, outgoing=False),
}


@pytest.mark.parametrize("scheme", [RowSlab, DAP])
@pytest.mark.parametrize(("ranks", "chunks"), [(2, 1), (3, 2), (6, 1), (7, 2), (9, 3)])
def test_moves_in_pieces_equal_moves_at_once_and_send_the_same_bytes(ranks, chunks, scheme):
    def program(_rank):
        for name, move in MOVES.items():
            results, sent = [], []
            for size in (0, 1, 2, TOKENS):
                ledger = Ledger()
                layout = scheme(TOKENS, GroupExchange(ledger=ledger), chunks=chunks)
                with torch.no_grad():
                    results.append(move(layout, layout.local(PAIRS, 1), size))
                sent.append(ledger.total().nbytes)
            for result in results[1:]:
                assert torch.equal(result, results[0]), name
            assert len(set(sent)) == 1, name
        return True

    assert all(on_ranks(ranks, program))


@pytest.mark.parametrize("name", MOVES)
def test_moves_in_pieces_equal_moves_at_once_on_one_rank(name):
    layout = SingleRank(TOKENS)
    expected = MOVES[name](layout, PAIRS, 0)
    for size in (1, 5, TOKENS):
        assert torch.equal(MOVES[name](layout, PAIRS, size), expected)
