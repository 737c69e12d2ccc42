"""Crops of a structure to a token budget (AlphaFold-Multimer, Algorithms 1 and 2).

Contiguous crops keep runs of each chain, spatial ones what is near a random token, interface ones
what is near a random token that is close to another chain. AlphaFold 3 mixes them 1 : 2 : 2.

Every choice is a keyed draw, so that a crop is a function of (seed, step, example).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refsys.data.grid import nearest
from refsys.streams import Draw

CROPS = ("contiguous", "spatial", "interface", "mixed")
_MIXED = ("contiguous", "spatial", "spatial", "interface", "interface")

# A structure's columns.
_Structure = Mapping[str, NDArray[Any]]


def crop_tokens(
    kind: str, structure: _Structure, budget: int, draw: Draw, focus: tuple[int, ...] = ()
) -> NDArray[np.int64]:
    """Which tokens to keep, in order; all of them if they fit.

    Args:
        kind: One of `CROPS`. Where there is no interface, interface crops are spatial ones; a
            structure without any position has contiguous ones alone.
        structure: Columns of its record.
        budget: How many tokens to keep at most, at least 1.
        draw: What the crop is for; its stream is extended by the names of the choices.
        focus: A chain, or two that meet, of which a spatial or interface crop has its middle.
    """
    tokens = len(structure["token_chain"])
    if tokens <= budget:
        return np.arange(tokens)
    if kind == "mixed":
        kind = _MIXED[_named(draw, "kind").below(len(_MIXED))]
    if kind == "contiguous" or not len(structure["modelled_token"]):
        return contiguous_crop(structure["chain_first_token"], budget, draw)
    return spatial_crop(structure, _middles(kind, structure, focus), budget, draw)


def contiguous_crop(firsts: NDArray[np.int32], budget: int, draw: Draw) -> NDArray[np.int64]:
    """One run of tokens from each chain, chains in random order, `budget` tokens in all.

    Args:
        firsts: The first token of each chain, and the number of tokens.
        budget: Fewer than there are.
        draw: See `crop_tokens`.
    """
    starts, lengths = np.asarray(firsts[:-1], np.int64), np.diff(firsts)
    order = _named(draw, "order").permutation(len(starts))
    sizes, offsets = (_named(draw, name).fractions(len(starts)) for name in ("size", "offset"))
    left, remaining = budget, int(lengths.sum())
    kept: list[NDArray[Any]] = []
    for chain, of_size, of_offset in zip(order, sizes, offsets, strict=True):
        length = int(lengths[chain])
        remaining -= length
        longest = min(left, length)
        shortest = min(length, max(0, left - remaining))
        size = shortest + (of_size * (longest - shortest + 1) >> 64)
        offset = of_offset * (length - size + 1) >> 64
        kept.append(starts[chain] + offset + np.arange(size))
        left -= size
    return np.sort(np.concatenate(kept))


def spatial_crop(
    structure: _Structure, middles: NDArray[np.int32], budget: int, draw: Draw
) -> NDArray[np.int64]:
    """The modelled tokens nearest to a random one of `middles`; ties go to the earlier token."""
    middle = middles[_named(draw, "middle").below(len(middles))]
    center = structure["token_center"][middle]
    return nearest(structure, structure["atom_position"][center], budget)


def _middles(kind: str, structure: _Structure, focus: tuple[int, ...]) -> NDArray[np.int32]:
    """The tokens that a spatial or interface crop may have in its middle."""
    modelled = np.asarray(structure["modelled_token"])
    first = structure["chain_first_token"]
    parts = [
        slice(*np.searchsorted(modelled, [first[chain], first[chain + 1]]).tolist())
        for chain in focus
    ]
    ours = np.concatenate([modelled[part] for part in parts]) if parts else modelled
    near = ours[structure["token_interface"][ours]]
    if len(focus) > 1:
        pairs = structure["interface_chains"]
        (pair,) = np.flatnonzero((pairs == focus).all(axis=1))
        between = slice(*structure["interface_first"][pair : pair + 2].tolist())
        near = structure["interface_token"][between]
    if kind == "interface" and len(near):
        return near
    return ours if len(ours) else modelled


def _named(draw: Draw, choice: str) -> Draw:
    return Draw(draw.seed, f"{draw.stream}/{choice}", draw.step, draw.example)
