"""Notes on the chemistry that the record of a structure lacks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refsys.data.formats.components import component
from refsys.data.formats.mmcif import Structure
from refsys.data.formats.notes import NoteKind, Notes

_NOTHING_KNOWN = NoteKind(
    "component has no definition, no bonds and no conformer",
    "components have no definition, no bonds and no conformer",
)
_UNDEFINED = NoteKind(
    "component has no definition and no conformer", "components have no definition and no conformer"
)
_NO_BONDS = NoteKind("component has no bonds", "components have no bonds")
_NO_CONFORMER = NoteKind(
    "component has no complete conformer", "components have no complete conformer"
)
_FOREIGN_ATOM = NoteKind(
    "modelled atom is not of its component and is left out",
    "modelled atoms are not of their components and are left out",
)
_LOST_CONNECTION = NoteKind(
    "connection is too long for a bond, or of an atom that is left out",
    "connections are too long for bonds, or of atoms that are left out",
)


def chemistry_notes(structure: Structure, columns: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    """Return sentences on components without chemistry, and on atoms and bonds without a row.

    Args:
        structure: Structure as read from the file.
        columns: Columns of its record.
    """
    notes = Notes()
    _note_components(structure, notes)
    row_of = _rows(structure, columns)
    for atom in np.flatnonzero(row_of < 0).tolist():
        notes.add(_FOREIGN_ATOM, _atom(structure, atom))
    bonded = set(map(tuple, columns["bond_atoms"].tolist()))
    for one, two in structure.connections.tolist():
        if tuple(sorted((int(row_of[one]), int(row_of[two])))) not in bonded:
            notes.add(_LOST_CONNECTION, f"{_atom(structure, one)} - {_atom(structure, two)}")
    return notes.sentences()


def _note_components(structure: Structure, notes: Notes) -> None:
    """Note each component that has several atoms and no bonds, or no conformer."""
    atoms_of: dict[str, int] = {}
    for residue in structure.residues:
        count = len(residue.atoms)
        atoms_of[residue.component] = max(count, atoms_of.get(residue.component, 0))
    for name, count in atoms_of.items():
        definition = component(name)
        if definition is None or not definition.names:
            has_bonds = count < 2 or bool(structure.component_bonds.get(name))
            notes.add(_UNDEFINED if has_bonds else _NOTHING_KNOWN, name)
            continue
        if len(definition.names) > 1 and not len(definition.bonds):
            notes.add(_NO_BONDS, name)
        if not definition.has_position.all():
            notes.add(_NO_CONFORMER, name)


def _rows(structure: Structure, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
    """Return the row of each modelled atom in the record, −1 if it has none."""
    rows = np.full(len(structure.names), -1, np.int64)
    starts = columns["residue_first_atom"].tolist()
    recorded = columns["atom_name"].astype(str).tolist()
    modelled = structure.names.tolist()
    for number, residue in enumerate(structure.residues):
        first, last = starts[number : number + 2]
        row_of_name = {name: row for row, name in enumerate(recorded[first:last], start=first)}
        for atom in residue.atoms:
            rows[atom] = row_of_name.get(modelled[atom], -1)
    return rows


def _atom(structure: Structure, atom: int) -> str:
    """Return the name of an atom in notes, as in ``B 1 NAG C1``."""
    residue = next(residue for residue in structure.residues if atom in residue.atoms)
    chain = structure.chains[residue.chain].name
    return f"{chain} {residue.number} {residue.component} {structure.names[atom]}"
