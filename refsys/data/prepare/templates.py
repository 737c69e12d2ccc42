"""Templates: known structures of like sequences, laid onto the residues of a chain."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refsys.data.store.columns import Columns
from refsys.data.vocabulary import GAP
from refsys.errors import DataError

# Fewer residues in common than this say nothing.
_FEWEST_RESIDUES = 10
_BACKBONE = (b"N", b"CA", b"C")


def template_columns(
    sequence: str, templates: list[tuple[Columns, str]]
) -> dict[str, NDArray[Any]]:
    """The columns of a template record.

    Args:
        sequence: Of the chain that is to be predicted, one letter per residue.
        templates: Structure records, and the name of a protein chain in each.

    Returns:
        [template, residue, …]: ``residue_type``, the template's class, a gap where it has no
        residue; ``pseudo_beta`` and ``backbone`` (N, Cα, C), ångström, with their masks.

    Raises:
        DataError: a structure has no such protein chain, or it is too unlike the sequence.
    """
    parts = [_template(sequence, structure, chain) for structure, chain in templates]
    empty = _empty(len(sequence))
    return {
        name: np.array([part[name] for part in parts], column.dtype).reshape(-1, *column.shape)
        for name, column in empty.items()
    }


def _template(sequence: str, structure: Columns, chain: str) -> dict[str, NDArray[Any]]:
    chains = structure.facts["chains"]
    found = [number for number, c in enumerate(chains) if c["name"] == chain]
    if not found or chains[found[0]]["kind"] != "protein":
        names = ", ".join(c["name"] for c in chains if c["kind"] == "protein")
        raise DataError(
            f"template {structure.facts['entry']}: no protein chain {chain}; it has {names or '-'}"
        )
    ours, theirs = _common(sequence, chains[found[0]]["sequence"])
    first = int(np.flatnonzero(structure["residue_chain"] == found[0])[0])
    token = np.searchsorted(structure["token_residue"], first + theirs)
    # A residue of several tokens is a modified one, which says nothing of a standard residue.
    whole = structure["token_element"][token] == 0
    ours, theirs, token = ours[whole], theirs[whole], token[whole]
    if len(ours) < _FEWEST_RESIDUES:
        raise DataError(
            f"template {structure.facts['entry']} {chain}: {len(ours)} residues in common with "
            f"the chain; a template has at least {_FEWEST_RESIDUES}"
        )
    backbone_rows = _backbone_rows(structure, first + theirs)
    representative = structure["token_representative"][token]
    columns = _empty(len(sequence))
    columns["residue_type"][ours] = structure["token_residue_type"][token]
    columns["pseudo_beta"][ours], seen = _positions(structure, representative)
    columns["pseudo_beta_mask"][ours] = seen
    columns["backbone"][ours], seen = _positions(structure, backbone_rows)
    columns["backbone_mask"][ours] = seen.all(axis=1)
    return columns


def _empty(length: int) -> dict[str, NDArray[Any]]:
    """The columns of a template that has nothing."""
    return {
        "residue_type": np.full(length, GAP, np.uint8),
        "pseudo_beta": np.zeros((length, 3), np.float32),
        "pseudo_beta_mask": np.zeros(length, np.bool_),
        "backbone": np.zeros((length, 3, 3), np.float32),
        "backbone_mask": np.zeros(length, np.bool_),
    }


def _common(ours: str, theirs: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places in both sequences of the residues that a global alignment puts together."""
    import gemmi

    scoring = gemmi.AlignmentScoring("b")
    result = gemmi.align_string_sequences(
        gemmi.expand_one_letter_sequence(ours, gemmi.ResidueKind.AA),
        gemmi.expand_one_letter_sequence(theirs, gemmi.ResidueKind.AA),
        [],
        scoring,
    )
    one = np.frombuffer(result.add_gaps(ours, 1).encode(), np.uint8) != ord("-")
    two = np.frombuffer(result.add_gaps(theirs, 2).encode(), np.uint8) != ord("-")
    both = one & two
    return np.cumsum(one)[both] - 1, np.cumsum(two)[both] - 1


def _backbone_rows(structure: Columns, residues: NDArray[np.int64]) -> NDArray[np.int64]:
    """[residue, 3] rows of N, Cα and C, −1 where a residue has no such atom."""
    rows = np.full((len(residues), 3), -1, np.int64)
    starts = structure["residue_first_atom"]
    for place, residue in enumerate(residues):
        names = structure["atom_name"][starts[residue] : starts[residue + 1]].tolist()
        for corner, name in enumerate(_BACKBONE):
            if name in names:
                rows[place, corner] = starts[residue] + names.index(name)
    return rows


def _positions(
    structure: Columns, rows: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Positions of atoms, 0 where they were not modelled, and whether they were."""
    kept = np.maximum(rows, 0)
    seen = (rows >= 0) & structure["atom_resolved"][kept]
    return np.where(seen[..., None], structure["atom_position"][kept], np.float32(0)), seen
