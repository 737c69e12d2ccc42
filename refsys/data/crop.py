"""Crops of a structure to a token budget (AlphaFold-Multimer, Algorithms 1 and 2).

Contiguous crops keep runs of each chain, spatial ones what is near a random token, interface ones
what is near a random token that is close to another chain. AlphaFold 3 mixes them 1 : 2 : 2.

Every choice is a keyed draw, so that a crop is a function of (seed, step, example).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refsys.streams import Draw

CROPS = ("contiguous", "spatial", "interface", "mixed")
_MIXED = ("contiguous", "spatial", "spatial", "interface", "interface")


def crop_tokens(
    kind: str,
    chains: NDArray[np.int32],
    centers: NDArray[np.float32],
    modelled: NDArray[np.bool_],
    interface: NDArray[np.bool_],
    budget: int,
    draw: Draw,
) -> NDArray[np.int64]:
    """Which tokens to keep, in order; all of them if they fit.

    Args:
        kind: One of `CROPS`. A structure without an interface has spatial crops in place of
            interface ones; one without any position has contiguous ones alone.
        chains: [token] chain numbers; a chain's tokens stand together.
        centers: [token, 3] positions of the centre atoms, ångström.
        modelled: [token] whether the centre atom has a position.
        interface: [token] whether it is close to another chain.
        budget: How many tokens to keep at most, at least 1.
        draw: What the crop is for; its stream is extended by the names of the choices.
    """
    if len(chains) <= budget:
        return np.arange(len(chains))
    if kind == "mixed":
        kind = _MIXED[_named(draw, "kind").below(len(_MIXED))]
    if kind == "contiguous" or not modelled.any():
        return contiguous_crop(chains, budget, draw)
    middles = modelled & interface
    if kind == "spatial" or not middles.any():
        middles = modelled
    return spatial_crop(centers, modelled, middles, budget, draw)


def contiguous_crop(chains: NDArray[np.int32], budget: int, draw: Draw) -> NDArray[np.int64]:
    """One run of tokens from each chain, chains in random order, `budget` tokens in all."""
    _, starts, lengths = np.unique(chains, return_index=True, return_counts=True)
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
    centers: NDArray[np.float32],
    modelled: NDArray[np.bool_],
    middles: NDArray[np.bool_],
    budget: int,
    draw: Draw,
) -> NDArray[np.int64]:
    """The modelled tokens nearest to a random one of `middles`; ties go to the earlier token."""
    candidates = np.flatnonzero(middles)
    middle = candidates[_named(draw, "middle").below(len(candidates))]
    distances = np.square(centers - centers[middle]).sum(axis=1)
    places = np.flatnonzero(modelled)
    # Floats that are not negative are in the order of their bits; the place decides ties.
    keys = distances[places].astype(np.float32).view(np.int32).astype(np.int64) << 32 | places
    if len(keys) > budget:
        keys = np.partition(keys, budget - 1)[:budget]
    return np.sort(keys & 0xFFFFFFFF)


def _named(draw: Draw, choice: str) -> Draw:
    return Draw(draw.seed, f"{draw.stream}/{choice}", draw.step, draw.example)
