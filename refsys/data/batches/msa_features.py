"""Alignment rows of a crop: the query, rows paired by species, then each chain's own."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refsys.data.store.store import Example
from refsys.data.vocabulary import GAP, RESIDUE_CLASSES
from refsys.streams import Draw

_NONE = -1
# Of which a cycle's are drawn (AlphaFold 3 supplement, section 2.2).
_MOST_ROWS = 16_384
# Places with more than so many columns for each of them are gathered one by one.
_SPARSE = 8


def alignment_arrays(
    example: Example,
    kept: NDArray[np.int64],
    rows: int,
    draw: Draw,
    cycles: int = 1,
    *,
    draw_depth: bool = False,
) -> dict[str, NDArray[Any]]:
    """The alignment fields of a crop.

    Each recycling iteration draws rows of its own. Row 0 is the query. Up to half of the rest are
    rows that at least two alignments of the crop have of one species, side by side; below them
    stand rows of each alignment that are in no such pair, in random order. Copies of a chain have
    the same rows. Tokens without an alignment (atoms, nucleotides) have the query in row 0, gaps
    below it, and their own class as profile.

    Args:
        example: Its records.
        kept: The crop's tokens, ascending.
        rows: How many rows at most.
        draw: The key of the choice.
        cycles: Recycling iterations.
        draw_depth: Whether the rows of each of them are fewer: the lesser of `rows` and a number
            drawn from 1 to all that there are, 16,384 at most (AlphaFold 3 supplement, 2.2).
    """
    structure = example.structure
    chains, numbers = structure["token_chain"][kept], structure["token_residue_index"][kept]
    present = {}
    for chain in sorted(set(chains.tolist()) & set(example.alignments)):
        # A chain's tokens stand together.
        first, count = int(np.argmax(chains == chain)), int(np.count_nonzero(chains == chain))
        present[chain] = slice(first, first + count)
    depth = max((len(example.alignments[chain]["codes"]) for chain in present), default=1)
    residue_type = structure["token_residue_type"][kept]
    profile = np.eye(RESIDUE_CLASSES, dtype=np.float32)[residue_type]
    deletion_mean = np.zeros(len(kept), np.float32)
    for chain, here in present.items():
        profile[here] = example.alignments[chain]["profile"][numbers[here] - 1]
        deletion_mean[here] = example.alignments[chain]["deletion_mean"][numbers[here] - 1]
    taken: list[dict[int, NDArray[np.int64]]] = []
    for cycle in range(cycles):
        own = _named(draw, str(cycle))
        most = rows
        if draw_depth:
            most = min(rows, 1 + _named(own, "depth").below(min(depth, _MOST_ROWS)))
        taken.append(_taken_rows(example, list(present), most, own))
    height = max((len(chosen) for each in taken for chosen in each.values()), default=1)
    codes = np.full((cycles, height, len(kept)), GAP, np.uint8)
    codes[:, 0] = residue_type
    deletions = np.zeros((cycles, height, len(kept)), np.uint8)
    mask = np.zeros((cycles, height), np.bool_)
    mask[:, 0] = True
    for cycle, by_chain in enumerate(taken):
        for chain, chosen in by_chain.items():
            alignment, here = example.alignments[chain], present[chain]
            place = numbers[here] - 1
            there = np.flatnonzero(chosen != _NONE)
            codes[cycle, there, here] = _cells(alignment["codes"], chosen[there], place)
            deletions[cycle, there, here] = _cells(alignment["deletions"], chosen[there], place)
            mask[cycle, : len(chosen)] = True
    return {
        "alignment": codes,
        "deletions": deletions,
        "alignment_row_mask": mask,
        "profile": profile,
        "deletion_mean": deletion_mean,
    }


def _cells(
    column: NDArray[np.uint8], rows: NDArray[np.int64], places: NDArray[np.int32]
) -> NDArray[np.uint8]:
    """[row, place] of an alignment's columns; runs are copied, which is faster than to gather."""
    array = np.asarray(column)
    first, end = int(places[0]), int(places[-1]) + 1
    if end - first > _SPARSE * len(places):
        return array[rows[:, None], places]
    run = array[rows, first:end]
    # The atoms of a modified residue have one place: a run has none twice.
    if np.array_equal(places, np.arange(first, end)):
        return run
    return np.take(run, places - first, axis=1)


def _taken_rows(
    example: Example, chains: list[int], rows: int, draw: Draw
) -> dict[int, NDArray[np.int64]]:
    """Rows of each chain's alignment by chain, −1 where a paired row has none of it."""
    name_of = {c: example.alignments[c].path.name for c in chains if c in example.alignments}
    paired = _paired_rows(example, list(dict.fromkeys(name_of.values())), rows, draw)
    by_name: dict[str, NDArray[np.int64]] = {}
    for chain, name in name_of.items():
        if name not in by_name:
            known = len(example.alignments[chain]["codes"])
            first = np.concatenate([np.zeros(1, np.int64), paired[name]])
            alone = np.ones(known, np.bool_)
            alone[first[first != _NONE]] = False
            # The first chain that has the alignment in the whole structure names its stream.
            number = min(c for c, a in example.alignments.items() if a.path.name == name)
            own = _named(draw, str(number))
            rest = np.flatnonzero(alone)
            order = own.sample(len(rest), max(rows - len(first), 0))
            by_name[name] = np.concatenate([first, rest[order]])
    return {chain: by_name[name] for chain, name in name_of.items()}


def _paired_rows(
    example: Example, names: list[str], rows: int, draw: Draw
) -> dict[str, NDArray[np.int64]]:
    """Rows of each alignment that go together, as many for each of them."""
    if example.pairing is None or len(names) < 2:
        return {name: np.empty(0, np.int64) for name in names}
    every: list[str] = example.pairing.facts["alignments"]
    table = example.pairing["rows"][1:, [every.index(name) for name in names]]
    if len(names) < len(every):
        # Alignments outside the crop may be all that told pairs apart, or from the queries.
        table = table[((table != _NONE).sum(axis=1) > 1) & (table > 0).any(axis=1)]
        table = table[np.sort(np.unique(table, axis=0, return_index=True)[1])]
    order = _named(draw, "paired").sample(len(table), (rows - 1) // 2)
    return {name: table[order, place].astype(np.int64) for place, name in enumerate(names)}


def _named(draw: Draw, choice: str) -> Draw:
    return Draw(draw.seed, f"{draw.stream}/{choice}", draw.step, draw.example)
