"""Tokenization: standard residues are one token, everything else one token per heavy atom.

Modified residues of polymers are tokenized by atom like ligands; one that was not modelled has no
known atoms and is one unknown token.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refsys.data.mmcif import Chain, Residue, Structure
from refsys.data.vocabulary import (
    AMINO_ACIDS,
    NUCLEOTIDES,
    PURINES,
    RESIDUE_TYPES,
    UNKNOWN,
)

ABSENT = -1


def structure_columns(structure: Structure) -> dict[str, NDArray[Any]]:
    """The columns of a structure record.

    Returns:
        ``token_*``, one row per token: residue type (uint8), residue index, chain, entity and
        symmetry numbers (int32), element (uint8, 0 unless the token is an atom), and the atom rows
        of its centre and its representative (pseudo-β) atom, −1 where not modelled.
        ``atom_*``, one row per atom: element, charge, position, occupancy, name (4 bytes), token.
        ``bond_atoms``: pairs of atom rows.
    """
    tokens: list[tuple[int, ...]] = []
    token_of_atom = np.full(len(structure.names), ABSENT, dtype=np.int32)
    numbers = _chain_numbers(structure.chains)
    for residue in structure.residues:
        chain = structure.chains[residue.chain]
        place = (residue.number, *numbers[residue.chain])
        for code, element, center, representative, atoms in _tokens(structure, chain, residue):
            token_of_atom[atoms.start : atoms.stop] = len(tokens)
            tokens.append((code, *place, element, center, representative))
    names = ("residue_type", "residue_index", "chain", "entity", "symmetry", "element", "center")
    table = np.array(tokens, dtype=np.int32).reshape(len(tokens), 8)
    columns = {
        f"token_{name}": table[:, column] for column, name in enumerate((*names, "representative"))
    }
    for name in ("token_residue_type", "token_element"):
        columns[name] = columns[name].astype(np.uint8)
    return columns | {
        "atom_element": structure.elements,
        "atom_charge": structure.charges,
        "atom_position": structure.positions,
        "atom_occupancy": structure.occupancies,
        "atom_name": structure.names.astype("S4"),
        "atom_token": token_of_atom,
        "bond_atoms": structure.bonds,
    }


def chain_sequence(structure: Structure, chain: int) -> str:
    """One letter per SEQRES residue of a protein chain, X where it is not a standard amino acid."""
    return "".join(
        AMINO_ACIDS.get(residue.component, "X")
        for residue in structure.residues
        if residue.chain == chain
    )


def _chain_numbers(chains: tuple[Chain, ...]) -> list[tuple[int, int, int]]:
    """(chain, entity, symmetry) of each chain; entities and copies count from 0 as they appear."""
    entities: dict[str, int] = {}
    copies: dict[str, int] = {}
    numbers = []
    for index, chain in enumerate(chains):
        entity = entities.setdefault(chain.entity, len(entities))
        copy = copies[chain.entity] = copies.get(chain.entity, -1) + 1
        numbers.append((index, entity, copy))
    return numbers


def _tokens(
    structure: Structure, chain: Chain, residue: Residue
) -> list[tuple[int, int, int, int, range]]:
    """(residue type, element, centre, representative, atoms) of each token of a residue."""
    polymer = chain.kind != "ligand"
    if polymer and residue.component in RESIDUE_TYPES:
        code = RESIDUE_TYPES[residue.component]
        center, representative = _representative_names(residue.component)
        place = {str(structure.names[atom]): atom for atom in residue.atoms}
        return [
            (code, 0, place.get(center, ABSENT), place.get(representative, ABSENT), residue.atoms)
        ]
    if polymer and not residue.atoms:
        return [(UNKNOWN, 0, ABSENT, ABSENT, residue.atoms)]
    return [
        (UNKNOWN, int(structure.elements[atom]), atom, atom, range(atom, atom + 1))
        for atom in residue.atoms
    ]


def _representative_names(component: str) -> tuple[str, str]:
    """The centre and the pseudo-β atom of a standard residue."""
    if component in NUCLEOTIDES:
        return "C1'", "C4" if component in PURINES else "C2"
    return "CA", "CA" if component == "GLY" else "CB"
