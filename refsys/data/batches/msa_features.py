"""MSA features of a crop: the query, rows paired by species, then unpaired rows of each chain."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refsys.data.store.store import Example
from refsys.data.vocabulary import GAP, RESIDUE_CLASSES
from refsys.streams import Draw

_NONE = -1
# Limit of the sampled MSA depth (AlphaFold 3 supplement, section 2.2).
_MOST_ROWS = 16_384
# Residues that span more than this many columns each are gathered one by one.
_SPARSE = 8


def msa_arrays(
    example: Example,
    tokens: NDArray[np.int64],
    rows: int,
    draw: Draw,
    cycles: int = 1,
    *,
    draw_depth: bool = False,
) -> dict[str, NDArray[Any]]:
    """Return the MSA fields of a crop.

    Each recycling iteration samples its own rows. Row 0 is the query. Up to half of the other rows
    are paired: side by side, rows of one species from at least two MSAs of the crop. Below them are
    unpaired rows of each MSA, in random order. Copies of a chain have the same rows. Tokens without
    an MSA (atoms, nucleotides) have the query in row 0, gaps below it, and their own class as
    profile.

    Args:
        example: Records of the entry.
        tokens: [token] numbers of the crop's tokens, ascending.
        rows: Most rows.
        draw: RNG key of the selection.
        cycles: Recycling iterations.
        draw_depth: Whether to sample the depth of each iteration: the lesser of `rows` and a number
            from 1 to the depth of the deepest MSA, 16,384 at most (AlphaFold 3 supplement, 2.2).

    Returns:
        ``msa`` and ``deletions`` [cycle, row, token], ``alignment_row_mask`` [cycle, row],
        ``profile`` [token, class] and ``deletion_mean`` [token].
    """
    structure = example.structure
    chains, numbers = structure["token_chain"][tokens], structure["token_residue_index"][tokens]
    present = {}
    for chain in sorted(set(chains.tolist()) & set(example.alignments)):
        # The tokens of a chain are contiguous.
        first, count = int(np.argmax(chains == chain)), int(np.count_nonzero(chains == chain))
        present[chain] = slice(first, first + count)
    deepest = max((len(example.alignments[chain]["codes"]) for chain in present), default=1)
    residue_type = structure["token_residue_type"][tokens]
    profile = np.eye(RESIDUE_CLASSES, dtype=np.float32)[residue_type]
    deletion_mean = np.zeros(len(tokens), np.float32)
    for chain, columns in present.items():
        profile[columns] = example.alignments[chain]["profile"][numbers[columns] - 1]
        deletion_mean[columns] = example.alignments[chain]["deletion_mean"][numbers[columns] - 1]
    selected: list[dict[int, NDArray[np.int64]]] = []
    for cycle in range(cycles):
        cycle_draw = _named(draw, str(cycle))
        depth_limit = rows
        if draw_depth:
            depth_limit = min(rows, 1 + _named(cycle_draw, "depth").below(min(deepest, _MOST_ROWS)))
        selected.append(_sampled_rows(example, list(present), depth_limit, cycle_draw))
    height = max(
        (len(row_numbers) for by_chain in selected for row_numbers in by_chain.values()), default=1
    )
    codes = np.full((cycles, height, len(tokens)), GAP, np.uint8)
    codes[:, 0] = residue_type
    deletions = np.zeros((cycles, height, len(tokens)), np.uint8)
    mask = np.zeros((cycles, height), np.bool_)
    mask[:, 0] = True
    for cycle, by_chain in enumerate(selected):
        for chain, row_numbers in by_chain.items():
            msa, columns = example.alignments[chain], present[chain]
            residues = numbers[columns] - 1
            filled = np.flatnonzero(row_numbers != _NONE)
            codes[cycle, filled, columns] = _cells(msa["codes"], row_numbers[filled], residues)
            deletions[cycle, filled, columns] = _cells(
                msa["deletions"], row_numbers[filled], residues
            )
            mask[cycle, : len(row_numbers)] = True
    return {
        "alignment": codes,
        "deletions": deletions,
        "alignment_row_mask": mask,
        "profile": profile,
        "deletion_mean": deletion_mean,
    }


def _cells(
    column: NDArray[np.uint8], rows: NDArray[np.int64], residues: NDArray[np.int32]
) -> NDArray[np.uint8]:
    """Return the cells [row, residue] of an MSA column array.

    A contiguous run of residues is sliced, which is faster than a gather.
    """
    array = np.asarray(column)
    first, end = int(residues[0]), int(residues[-1]) + 1
    if end - first > _SPARSE * len(residues):
        return array[rows[:, None], residues]
    run = array[rows, first:end]
    # The atom tokens of a modified residue repeat its residue, so the tokens may be no plain run.
    if np.array_equal(residues, np.arange(first, end)):
        return run
    return np.take(run, residues - first, axis=1)


def _sampled_rows(
    example: Example, chains: list[int], rows: int, draw: Draw
) -> dict[int, NDArray[np.int64]]:
    """Return the sampled rows of each chain's MSA, −1 where a paired row has no row of it."""
    name_of = {c: example.alignments[c].path.name for c in chains if c in example.alignments}
    paired = _paired_rows(example, list(dict.fromkeys(name_of.values())), rows, draw)
    by_name: dict[str, NDArray[np.int64]] = {}
    for chain, name in name_of.items():
        if name not in by_name:
            depth = len(example.alignments[chain]["codes"])
            first = np.concatenate([np.zeros(1, np.int64), paired[name]])
            is_unpaired = np.ones(depth, np.bool_)
            is_unpaired[first[first != _NONE]] = False
            # The first chain of the structure that has this MSA names the stream.
            first_chain = min(c for c, a in example.alignments.items() if a.path.name == name)
            msa_draw = _named(draw, str(first_chain))
            unpaired = np.flatnonzero(is_unpaired)
            sampled = msa_draw.sample(len(unpaired), max(rows - len(first), 0))
            by_name[name] = np.concatenate([first, unpaired[sampled]])
    return {chain: by_name[name] for chain, name in name_of.items()}


def _paired_rows(
    example: Example, names: list[str], rows: int, draw: Draw
) -> dict[str, NDArray[np.int64]]:
    """Return the sampled paired rows of each MSA, all of the same length."""
    if example.pairing is None or len(names) < 2:
        return {name: np.empty(0, np.int64) for name in names}
    every: list[str] = example.pairing.facts["alignments"]
    table = example.pairing["rows"][1:, [every.index(name) for name in names]]
    if len(names) < len(every):
        # Without the MSAs outside the crop, paired rows may repeat one another or the queries.
        table = table[((table != _NONE).sum(axis=1) > 1) & (table > 0).any(axis=1)]
        table = table[np.sort(np.unique(table, axis=0, return_index=True)[1])]
    order = _named(draw, "paired").sample(len(table), (rows - 1) // 2)
    return {name: table[order, column].astype(np.int64) for column, name in enumerate(names)}


def _named(draw: Draw, choice: str) -> Draw:
    return Draw(draw.seed, f"{draw.stream}/{choice}", draw.step, draw.example)
