"""Crops of a structure to a token budget (AlphaFold-Multimer, Algorithms 1 and 2).

A contiguous crop has a run of tokens of each chain, a spatial crop the tokens nearest to a random
token, an interface crop those nearest to a random token that is close to another chain. AlphaFold 3
mixes them 1 : 2 : 2.

All randomness comes from keyed streams, so a crop is a function of (seed, step, index).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refsys.data.grid import nearest
from refsys.streams import Draw

CROPS = ("contiguous", "spatial", "interface", "mixed")
_MIXED = ("contiguous", "spatial", "spatial", "interface", "interface")

# Columns of a structure record.
_Structure = Mapping[str, NDArray[Any]]


def crop_tokens(
    kind: str, structure: _Structure, budget: int, draw: Draw, focus: tuple[int, ...] = ()
) -> NDArray[np.int64]:
    """Return the tokens of a crop, ascending; all tokens if they fit the budget.

    Args:
        kind: One of `CROPS`. Without an interface, an interface crop is a spatial one; a structure
            without positions has contiguous crops alone.
        structure: Columns of the structure record.
        budget: Most tokens of the crop, at least 1.
        draw: RNG key of the crop; its stream is extended by the names of the choices.
        focus: A chain, or two chains in contact, that have the centre token of a spatial or
            interface crop.
    """
    tokens = len(structure["token_chain"])
    if tokens <= budget:
        return np.arange(tokens)
    if kind == "mixed":
        kind = _MIXED[_named(draw, "kind").below(len(_MIXED))]
    if kind == "contiguous" or not len(structure["modelled_token"]):
        return contiguous_crop(structure["chain_first_token"], budget, draw)
    return spatial_crop(structure, _center_candidates(kind, structure, focus), budget, draw)


def contiguous_crop(firsts: NDArray[np.int32], budget: int, draw: Draw) -> NDArray[np.int64]:
    """Return one run of tokens from each chain, chains in random order, `budget` tokens in all.

    Args:
        firsts: [chain + 1] first token of each chain, then the number of tokens.
        budget: Number of tokens, fewer than the structure has.
        draw: See `crop_tokens`.
    """
    starts, lengths = np.asarray(firsts[:-1], np.int64), np.diff(firsts)
    order = _named(draw, "order").permutation(len(starts))
    sizes, offsets = (_named(draw, name).fractions(len(starts)) for name in ("size", "offset"))
    unused, remaining = budget, int(lengths.sum())
    runs: list[NDArray[Any]] = []
    for chain, of_size, of_offset in zip(order, sizes, offsets, strict=True):
        length = int(lengths[chain])
        remaining -= length
        longest = min(unused, length)
        shortest = min(length, max(0, unused - remaining))
        size = shortest + (of_size * (longest - shortest + 1) >> 64)
        offset = of_offset * (length - size + 1) >> 64
        runs.append(starts[chain] + offset + np.arange(size))
        unused -= size
    return np.sort(np.concatenate(runs))


def spatial_crop(
    structure: _Structure, candidates: NDArray[np.int32], budget: int, draw: Draw
) -> NDArray[np.int64]:
    """Return the modelled tokens nearest to a random one of `candidates`; ties go to the lower."""
    middle = candidates[_named(draw, "middle").below(len(candidates))]
    center = structure["token_center"][middle]
    return nearest(structure, structure["atom_position"][center], budget)


def _center_candidates(
    kind: str, structure: _Structure, focus: tuple[int, ...]
) -> NDArray[np.int32]:
    """Return the tokens that may be the centre of a spatial or interface crop."""
    modelled = np.asarray(structure["modelled_token"])
    first = structure["chain_first_token"]
    parts = [
        slice(*np.searchsorted(modelled, [first[chain], first[chain + 1]]).tolist())
        for chain in focus
    ]
    candidates = np.concatenate([modelled[part] for part in parts]) if parts else modelled
    near = candidates[structure["token_interface"][candidates]]
    if len(focus) > 1:
        pairs = structure["interface_chains"]
        (pair,) = np.flatnonzero((pairs == focus).all(axis=1))
        between = slice(*structure["interface_first"][pair : pair + 2].tolist())
        near = structure["interface_token"][between]
    if kind == "interface" and len(near):
        return near
    return candidates if len(candidates) else modelled


def _named(draw: Draw, choice: str) -> Draw:
    return Draw(draw.seed, f"{draw.stream}/{choice}", draw.step, draw.example)
