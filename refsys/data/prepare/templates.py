"""Templates: known structures of similar sequences, aligned to the residues of a chain."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refsys.data.store.columns import Columns
from refsys.data.vocabulary import GAP
from refsys.errors import DataError

# Fewest aligned residues of a template.
_FEWEST_RESIDUES = 10
_BACKBONE = (b"N", b"CA", b"C")


def template_columns(
    sequence: str, templates: list[tuple[Columns, str]]
) -> dict[str, NDArray[Any]]:
    """Return the columns of a template record.

    Args:
        sequence: Sequence of the chain to predict, one letter per residue.
        templates: Structure records, and the name of a protein chain in each.

    Returns:
        [template, residue, …]: ``residue_type``, the template's class, a gap where it has no
        residue; ``pseudo_beta`` and ``backbone`` (N, Cα, C), ångström, with their masks.

    Raises:
        DataError: a structure has no such protein chain, or too few of its residues are aligned.
    """
    parts = [_template(sequence, structure, chain) for structure, chain in templates]
    empty = _empty(len(sequence))
    return {
        name: np.array([part[name] for part in parts], column.dtype).reshape(-1, *column.shape)
        for name, column in empty.items()
    }


def _template(sequence: str, structure: Columns, chain: str) -> dict[str, NDArray[Any]]:
    chains = structure.facts["chains"]
    numbers = [number for number, c in enumerate(chains) if c["name"] == chain]
    if not numbers or chains[numbers[0]]["kind"] != "protein":
        names = ", ".join(c["name"] for c in chains if c["kind"] == "protein")
        raise DataError(
            f"template {structure.facts['entry']}: no protein chain {chain}; it has {names or '-'}"
        )
    chain_residues, template_residues = _aligned_residues(sequence, chains[numbers[0]]["sequence"])
    first = int(np.flatnonzero(structure["residue_chain"] == numbers[0])[0])
    token = np.searchsorted(structure["token_residue"], first + template_residues)
    # A residue of several tokens is a modified one, which has no residue class.
    is_standard = structure["token_element"][token] == 0
    chain_residues, template_residues, token = (
        chain_residues[is_standard],
        template_residues[is_standard],
        token[is_standard],
    )
    if len(chain_residues) < _FEWEST_RESIDUES:
        raise DataError(
            f"template {structure.facts['entry']} {chain}: {len(chain_residues)} residues in "
            f"common with the chain; a template has at least {_FEWEST_RESIDUES}"
        )
    backbone_rows = _backbone_rows(structure, first + template_residues)
    representative = structure["token_representative"][token]
    columns = _empty(len(sequence))
    columns["residue_type"][chain_residues] = structure["token_residue_type"][token]
    columns["pseudo_beta"][chain_residues], modelled = _positions(structure, representative)
    columns["pseudo_beta_mask"][chain_residues] = modelled
    columns["backbone"][chain_residues], modelled = _positions(structure, backbone_rows)
    columns["backbone_mask"][chain_residues] = modelled.all(axis=1)
    return columns


def _empty(length: int) -> dict[str, NDArray[Any]]:
    """Return the columns of a template without residues."""
    return {
        "residue_type": np.full(length, GAP, np.uint8),
        "pseudo_beta": np.zeros((length, 3), np.float32),
        "pseudo_beta_mask": np.zeros(length, np.bool_),
        "backbone": np.zeros((length, 3, 3), np.float32),
        "backbone_mask": np.zeros(length, np.bool_),
    }


def _aligned_residues(sequence: str, template: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices in both sequences of the residues that a global alignment pairs."""
    import gemmi

    scoring = gemmi.AlignmentScoring("b")
    result = gemmi.align_string_sequences(
        gemmi.expand_one_letter_sequence(sequence, gemmi.ResidueKind.AA),
        gemmi.expand_one_letter_sequence(template, gemmi.ResidueKind.AA),
        [],
        scoring,
    )
    one = np.frombuffer(result.add_gaps(sequence, 1).encode(), np.uint8) != ord("-")
    two = np.frombuffer(result.add_gaps(template, 2).encode(), np.uint8) != ord("-")
    both = one & two
    return np.cumsum(one)[both] - 1, np.cumsum(two)[both] - 1


def _backbone_rows(structure: Columns, residues: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows [residue, 3] of N, Cα and C, −1 where a residue has no such atom."""
    rows = np.full((len(residues), 3), -1, np.int64)
    starts = structure["residue_first_atom"]
    for index, residue in enumerate(residues):
        names = structure["atom_name"][starts[residue] : starts[residue + 1]].tolist()
        for corner, name in enumerate(_BACKBONE):
            if name in names:
                rows[index, corner] = starts[residue] + names.index(name)
    return rows


def _positions(
    structure: Columns, rows: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the positions of atoms, 0 where they were not modelled, and a mask."""
    atoms = np.maximum(rows, 0)
    modelled = (rows >= 0) & structure["atom_resolved"][atoms]
    return np.where(modelled[..., None], structure["atom_position"][atoms], np.float32(0)), modelled
