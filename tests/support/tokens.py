"""Columns of structure records with tokens at given positions, as crops read them."""

import numpy as np

from refsys.data.grid import grid_columns


def structure_of(centers, *, chains=None, modelled=None, near=(), interfaces=None):
    """Return the columns of a structure with one atom per token.

    Args:
        centers: [token, 3] positions, ångström.
        chains: [token] chain numbers; one chain if None.
        modelled: Tokens with a position; all if None.
        near: Tokens at an interface.
        interfaces: Tokens of each interface, by pair of chains.
    """
    count, interfaces = len(centers), interfaces or {}
    chains = np.zeros(count, np.int32) if chains is None else np.asarray(chains, np.int32)
    modelled = np.arange(count) if modelled is None else np.array(sorted(modelled), int)
    positions = np.asarray(centers, np.float32)
    tokens = [np.array(sorted(places), np.int32) for places in interfaces.values()]
    return {
        "token_chain": chains,
        "chain_first_token": np.searchsorted(chains, np.arange(chains.max(initial=-1) + 2)),
        "token_center": np.arange(count, dtype=np.int32),
        "atom_position": positions,
        "token_interface": np.isin(np.arange(count), list(near)),
        "modelled_token": modelled.astype(np.int32),
        "interface_chains": np.array(list(interfaces), np.int32).reshape(-1, 2),
        "interface_first": np.cumsum([0, *map(len, tokens)]),
        "interface_token": np.concatenate([np.empty(0, np.int32), *tokens]),
        **grid_columns(positions[modelled], modelled),
    }


def line(count, **options):
    """Return the columns of tokens in a line, 1 Å apart."""
    return structure_of(np.arange(count, dtype=np.float32)[:, None] * [[1, 0, 0]], **options)
