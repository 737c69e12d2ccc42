"""Moves of a row slab, each with an input and its result on the whole tensor."""

import torch

TOKENS, ATOMS, CHANNELS, BATCH = 22, 320, 5, 2
# Few atoms for some tokens and many for others, the last ones padding.
COUNTS = [1, 1, 1, 1, 1, 1, 30, 30, 30, 30, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14]
TOKEN = torch.full((BATCH, ATOMS), -1)
TOKEN[:, : sum(COUNTS)] = torch.repeat_interleave(torch.arange(TOKENS), torch.tensor(COUNTS))
GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(BATCH, *shape, generator=GENERATOR, dtype=torch.float64)


PAIRS = normal(TOKENS, TOKENS, CHANNELS)
TOKEN_VALUES = normal(2, TOKENS, CHANNELS)
ATOM_VALUES = normal(2, ATOMS, CHANNELS)


def rows(layout, x):
    return layout.local(x, 1)


def streamed(layout, x):
    blocks = dict(zip(layout.streamed(), layout.stream(x, 1), strict=True))
    return torch.cat([blocks[interval] for interval in sorted(blocks)], 1)


def whole_halo(layout, x):
    padded = torch.nn.functional.pad(x, (0, 0, 48, 48))
    return padded[:, :, layout.atom_start : layout.atom_stop + 96]


def outgoing(a, b):
    return torch.einsum("bikc,bjkc->bijc", a, b)


# Input of a move, its owned part, the move, and its result from the whole input.
MOVES = {
    "gather_tokens": (
        TOKEN_VALUES,
        lambda layout, x: layout.local(x, 2),
        lambda layout, x: layout.gather_tokens(x, 2),
        lambda layout, x: x,
    ),
    "gather_atoms": (
        ATOM_VALUES,
        lambda layout, x: layout.local_atoms(x, 2),
        lambda layout, x: layout.gather_atoms(x, 2),
        lambda layout, x: x,
    ),
    "rows_to_columns": (
        PAIRS,
        rows,
        lambda layout, x: layout.rows_to_columns(x),
        lambda layout, x: rows(layout, x.transpose(1, 2)),
    ),
    "columns_to_rows": (
        PAIRS,
        lambda layout, x: rows(layout, x.transpose(1, 2)),
        lambda layout, x: layout.columns_to_rows(x),
        rows,
    ),
    "stream": (
        PAIRS,
        rows,
        streamed,
        lambda layout, x: x,
    ),
    "by_channels": (
        PAIRS,
        rows,
        lambda layout, x: layout.by_channels(outgoing, x, x.detach(), outgoing=True),
        lambda layout, x: rows(layout, outgoing(x, x)),
    ),
    "halo": (
        ATOM_VALUES,
        lambda layout, x: layout.local_atoms(x, 2),
        lambda layout, x: layout.halo(x, 2, 48),
        whole_halo,
    ),
    "tokens_of_atoms": (
        TOKEN_VALUES,
        lambda layout, x: layout.local(x, 2),
        lambda layout, x: layout.tokens_of_atoms(x, 2),
        lambda layout, x: x[:, :, slice(*layout.atom_tokens)],
    ),
    "pairs_of_atoms": (
        PAIRS,
        rows,
        lambda layout, x: layout.pairs_of_atoms(x),
        lambda layout, x: x[:, slice(*layout.atom_tokens), slice(*layout.key_tokens)],
    ),
}
