"""Where chains meet: which pairs of them do, and which of their tokens are there."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Tokens are at an interface where centre atoms are nearer than this, ångström (AlphaFold-Multimer).
INTERFACE_DISTANCE = 15.0
# Chains have an interface where heavy atoms are nearer than this (AlphaFold 3 supplement, 2.5).
CONTACT_DISTANCE = 5.0
# Neighbours of so many at a time are listed.
_AT_ONCE = 4096


def interface_columns(
    columns: Mapping[str, NDArray[Any]], modelled: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """The columns that say where chains meet.

    Args:
        columns: The structure's other columns.
        modelled: Tokens whose centre atom was modelled, ascending.

    Returns:
        ``token_interface``: whether a token is near any other chain. ``interface_chains``
        [interface, 2]: pairs of chains in contact, the lesser number first, ascending.
        ``interface_token``: end to end, the tokens of each pair that are near the other, ascending;
        those of pair k are from ``interface_first``[k] to before ``interface_first``[k + 1].
    """
    chain = columns["token_chain"]
    centers = columns["atom_position"][columns["token_center"][modelled]]
    near, other = _pairs(centers, chain[modelled], INTERFACE_DISTANCE)
    token_interface = np.zeros(len(chain), np.bool_)
    token_interface[modelled[near]] = True
    resolved = np.flatnonzero(columns["atom_resolved"])
    atom_chain = chain[columns["atom_token"][resolved]]
    one, two = _pairs(columns["atom_position"][resolved], atom_chain, CONTACT_DISTANCE)
    contacts = np.unique(_numbered(atom_chain[one], two))
    # Numbers of the pairs, and tokens that are at each of them.
    pairs = _numbered(chain[modelled[near]], other)
    kept = np.isin(pairs, contacts)
    at = np.unique(np.stack([pairs[kept], modelled[near][kept]], axis=1), axis=0)
    return {
        "token_interface": token_interface,
        "interface_chains": np.stack([contacts >> 32, contacts & 0xFFFFFFFF], axis=1).astype(
            np.int32
        ),
        "interface_first": np.append(np.searchsorted(at[:, 0], contacts), len(at)).astype(np.int32),
        "interface_token": at[:, 1].astype(np.int32),
    }


def _numbered(one: NDArray[Any], two: NDArray[Any]) -> NDArray[np.int64]:
    """A number for each pair of chains, whichever comes first."""
    pairs: NDArray[np.int64] = np.minimum(one, two).astype(np.int64) << 32 | np.maximum(one, two)
    return pairs


def _pairs(
    positions: NDArray[np.float32], chains: NDArray[np.int32], distance: float
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Places, and other chains that they are within a distance of; each pair once."""
    from biotite.structure import CellList

    found = [np.empty((0, 2), np.int64)]
    if len(positions):
        cells = CellList(positions, cell_size=distance)
        for part in np.array_split(np.arange(len(positions)), -(-len(positions) // _AT_ONCE)):
            others = cells.get_atoms(positions[part], distance)
            theirs = chains[others]
            row, column = np.nonzero((others >= 0) & (theirs != chains[part][:, None]))
            pairs = np.stack([part[row], theirs[row, column]], axis=1)
            found.append(np.unique(pairs, axis=0) if len(pairs) else pairs)
    joined = np.concatenate(found)
    return joined[:, 0], joined[:, 1].astype(np.int32)
