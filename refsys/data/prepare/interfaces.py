"""Interfaces: pairs of chains in contact, and their tokens near the other chain."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Largest distance of centre atoms at an interface, ångström (AlphaFold-Multimer).
INTERFACE_DISTANCE = 15.0
# Largest distance of heavy atoms of chains in contact, ångström (AlphaFold 3 supplement, 2.5).
CONTACT_DISTANCE = 5.0
# Positions per query of the cell list, which bounds the memory of its result.
_AT_ONCE = 4096


def interface_columns(
    columns: Mapping[str, NDArray[Any]], modelled: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Return the interface columns of a structure record.

    Args:
        columns: The other columns of the structure.
        modelled: Tokens whose centre atom was modelled, ascending.

    Returns:
        ``token_interface``: whether a token is near any other chain. ``interface_chains``
        [interface, 2]: pairs of chains in contact, the lesser number first, ascending.
        ``interface_token``: the tokens of each pair that are near its other chain, ascending,
        concatenated; pair k has those from ``interface_first[k]`` to ``interface_first[k + 1]``,
        exclusive.
    """
    chain = columns["token_chain"]
    centers = columns["atom_position"][columns["token_center"][modelled]]
    near, other = _nearby_chains(centers, chain[modelled], INTERFACE_DISTANCE)
    token_interface = np.zeros(len(chain), np.bool_)
    token_interface[modelled[near]] = True
    resolved = np.flatnonzero(columns["atom_resolved"])
    atom_chain = chain[columns["atom_token"][resolved]]
    one, two = _nearby_chains(columns["atom_position"][resolved], atom_chain, CONTACT_DISTANCE)
    contacts = np.unique(_pair_numbers(atom_chain[one], two))
    # Unique rows of (number of the pair, token).
    pairs = _pair_numbers(chain[modelled[near]], other)
    in_contact = np.isin(pairs, contacts)
    interface_tokens = np.unique(
        np.stack([pairs[in_contact], modelled[near][in_contact]], axis=1), axis=0
    )
    return {
        "token_interface": token_interface,
        "interface_chains": np.stack([contacts >> 32, contacts & 0xFFFFFFFF], axis=1).astype(
            np.int32
        ),
        "interface_first": np.append(
            np.searchsorted(interface_tokens[:, 0], contacts), len(interface_tokens)
        ).astype(np.int32),
        "interface_token": interface_tokens[:, 1].astype(np.int32),
    }


def _pair_numbers(one: NDArray[Any], two: NDArray[Any]) -> NDArray[np.int64]:
    """Return a number for each pair of chains, independent of their order."""
    pairs: NDArray[np.int64] = np.minimum(one, two).astype(np.int64) << 32 | np.maximum(one, two)
    return pairs


def _nearby_chains(
    positions: NDArray[np.float32], chains: NDArray[np.int32], distance: float
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return unique pairs of a position's index and another chain within a distance of it."""
    from biotite.structure import CellList

    parts = [np.empty(0, np.int64)]
    if len(positions):
        cells = CellList(positions, cell_size=distance)
        for part in np.array_split(np.arange(len(positions)), -(-len(positions) // _AT_ONCE)):
            neighbours = cells.get_atoms(positions[part], distance)
            neighbour_chains = chains[neighbours]
            row, column = np.nonzero(
                (neighbours >= 0) & (neighbour_chains != chains[part][:, None])
            )
            # One number a pair: unique rows would take ten times as long.
            parts.append(np.unique(part[row] << 32 | neighbour_chains[row, column]))
    joined = np.concatenate(parts)
    return joined >> 32, (joined & 0xFFFFFFFF).astype(np.int32)
