"""Columns of a structure: its atoms, tokens, residues and bonds.

Every atom that a residue has by its chemistry is a row, modelled or not; modelled atoms that do not
belong to their residue (such as a terminal oxygen inside a chain) are left out and counted.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refsys.data.formats.components import component
from refsys.data.formats.entities import Chain
from refsys.data.formats.mmcif import Residue, Structure
from refsys.data.formats.polymers import CYCLIC_PEPTIDE
from refsys.data.grid import grid_columns
from refsys.data.prepare.conformers import CONFORMERS
from refsys.data.prepare.interfaces import interface_columns
from refsys.data.prepare.residue_layout import (
    ABSENT,
    ResidueLayout,
    layout_as_modelled,
    layout_of,
    leaving_atoms,
    left_out,
)
from refsys.data.store.columns import ATOM_NAME, COMPONENT, narrowed
from refsys.data.vocabulary import AMINO_ACIDS

# A longer connection is not a bond, ångström.
_LONGEST_BOND = 2.4


def structure_columns(structure: Structure) -> dict[str, NDArray[Any]]:
    """Return the columns of a structure record.

    Returns:
        ``residue_*``, one row per residue: chain, number, component (5 bytes), first atom (one
        more entry), symmetry (row of ``symmetry_sizes``, −1 for none).
        ``token_*``, one row per token: residue, first atom (one more entry), residue type, residue
        index, chain, entity, copy number, element (0 unless the token is an atom), molecule,
        centre, representative and frame atoms (rows, −1 for none).
        ``modelled_token``: tokens whose centre was modelled.
        ``chain_first_token``, one entry per chain and one more.
        ``atom_*``, one row per atom: token, element, charge, name (4 bytes), position, whether it
        was modelled, its row in the conformers and whether they have it.
        ``conformer_position`` [conformer, row, 3]: reference conformers of each layout of a
        residue, concatenated.
        ``bond_atoms``: pairs of atom rows of different tokens.
        ``symmetry_sizes`` [symmetry, 2] and ``symmetry_places``: numbers of permutations and of
        atoms of each table of automorphisms, and the tables, concatenated.
        The columns of `grid_columns` and `interface_columns`.
    """
    bonded = _bonded_names(structure)
    layouts = _layouts(structure, bonded)
    first_atom = _starts([len(layout.names) for layout in layouts])
    row_of, modelled = _matched(structure, layouts, first_atom)
    columns = _atom_columns(structure, layouts, modelled)
    columns |= _token_columns(structure, layouts, first_atom)
    columns |= _residue_columns(structure, layouts, first_atom, bonded)
    columns["bond_atoms"] = _bonds(structure, layouts, first_atom, row_of)
    center = columns["token_center"]
    center_modelled = (center >= 0) & columns["atom_resolved"][np.maximum(center, 0)]
    modelled = np.flatnonzero(center_modelled)
    columns["modelled_token"] = modelled.astype(np.int32)
    columns |= grid_columns(columns["atom_position"][center[modelled]], modelled)
    return columns | interface_columns(columns, modelled)


def dropped_atoms(structure: Structure, columns: dict[str, NDArray[Any]]) -> int:
    """Return the number of resolved atoms that have no row."""
    return int(structure.resolved.sum()) - int(columns["atom_resolved"].sum())


def residues_of_chains(structure: Structure) -> list[list[Residue]]:
    """Return the residues of each chain."""
    residues: list[list[Residue]] = [[] for _ in structure.chains]
    for residue in structure.residues:
        residues[residue.chain].append(residue)
    return residues


def chain_sequence(residues: Sequence[Residue]) -> str:
    """Return one letter per SEQRES residue of a protein chain, X for non-standard amino acids."""
    return "".join(AMINO_ACIDS.get(residue.component, "X") for residue in residues)


def chain_alternatives(residues: Sequence[Residue]) -> dict[str, str]:
    """Return the letters of alternative components at SEQRES positions of a protein chain.

    Returns:
        By index of the residue in the chain, as text: one letter for each standard amino acid that
        its SEQRES position lists beside the component of the structure.
    """
    letters = {
        str(index): "".join(
            AMINO_ACIDS[name]
            for name in residue.listed
            if name != residue.component and name in AMINO_ACIDS
        )
        for index, residue in enumerate(residues)
        if len(residue.listed) > 1
    }
    return {index: text for index, text in letters.items() if text}


def chain_contents(kind: str, residues: Sequence[Residue]) -> str:
    """Return a digest of a chain's kind and components, which copies of the chain share."""
    text = " ".join([kind, *(residue.component for residue in residues)])
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _layouts(structure: Structure, bonded: Mapping[int, list[str]]) -> list[ResidueLayout]:
    """Return the layout of each residue."""
    chains = [residue.chain for residue in structure.residues]
    layouts = []
    for index, residue in enumerate(structure.residues):
        chain = structure.chains[residue.chain]
        kind = chain.kind
        definition = component(residue.component)
        if definition is None or not definition.names:
            rows = slice(residue.atoms.start, residue.atoms.stop)
            names = tuple(str(name) for name in structure.names[rows])
            elements, charges = structure.elements[rows], structure.charges[rows]
            bonds = structure.component_bonds
            layouts.append(
                layout_as_modelled(residue.component, kind, names, elements, charges, bonds)
            )
            continue
        first = index == 0 or chains[index - 1] != residue.chain
        last = index == len(chains) - 1 or chains[index + 1] != residue.chain
        last = last and chain.polymer != CYCLIC_PEPTIDE
        without = left_out(definition, kind, first=first, last=last)
        without |= leaving_atoms(definition, bonded.get(index, ()))
        layouts.append(layout_of(residue.component, kind, without))
    return layouts


def _bonded_names(structure: Structure) -> dict[int, list[str]]:
    """Return the names of the atoms that bond each residue to others, by residue."""
    starts = np.array([residue.atoms.start for residue in structure.residues])
    stops = np.array([residue.atoms.stop for residue in structure.residues])
    names: dict[int, list[str]] = {}
    for row in np.unique(structure.connections):
        # A residue without atoms starts where the next one does.
        residue = int(np.flatnonzero((starts <= row) & (row < stops))[0])
        names.setdefault(residue, []).append(str(structure.names[row]))
    return names


def _matched(
    structure: Structure, layouts: list[ResidueLayout], first_atom: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the row of each modelled atom of the file, and the reverse; −1 for none."""
    row_of = np.full(len(structure.names), ABSENT, np.int64)
    names = structure.names.tolist()
    for residue, layout, first in zip(structure.residues, layouts, first_atom[:-1], strict=True):
        index_of = dict(zip(layout.names, range(len(layout.names)), strict=True))
        for atom in residue.atoms:
            index = index_of.get(names[atom], ABSENT)
            if index >= 0:
                row_of[atom] = first + index
    modelled = np.full(int(first_atom[-1]), ABSENT, np.int64)
    atoms_with_row = np.flatnonzero(row_of >= 0)
    modelled[row_of[atoms_with_row]] = atoms_with_row
    return row_of, modelled


def _atom_columns(
    structure: Structure, layouts: list[ResidueLayout], modelled: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    resolved = modelled >= 0
    resolved[resolved] = structure.resolved[modelled[resolved]]
    position = np.zeros((len(modelled), 3), np.float32)
    position[resolved] = structure.positions[modelled[resolved]]
    return {
        "atom_element": _joined([layout.elements for layout in layouts], np.uint8),
        "atom_charge": _joined([layout.charges for layout in layouts], np.int8),
        "atom_name": ATOM_NAME.array([n for layout in layouts for n in layout.names]),
        "atom_position": position,
        "atom_resolved": resolved,
        "atom_reference_known": _joined([la.reference_known for la in layouts], np.bool_),
        **_conformer_columns(layouts),
    }


def _conformer_columns(layouts: list[ResidueLayout]) -> dict[str, NDArray[Any]]:
    """Return the conformers of each distinct layout, and the row of each atom in them."""
    distinct = list({id(layout): layout for layout in layouts}.values())
    firsts = _starts([len(layout.names) for layout in distinct])
    first_of = {id(layout): first for layout, first in zip(distinct, firsts, strict=False)}
    rows = [first_of[id(layout)] + np.arange(len(layout.names)) for layout in layouts]
    empty = np.empty((CONFORMERS, 0, 3), np.float32)
    return {
        "atom_conformer": _joined(rows, np.int32),
        "conformer_position": np.concatenate([empty, *(la.conformers for la in distinct)], axis=1),
    }


def _token_columns(
    structure: Structure, layouts: list[ResidueLayout], first_atom: NDArray[np.int32]
) -> dict[str, NDArray[Any]]:
    counts = [len(layout.first_atoms) for layout in layouts]
    residue = np.repeat(np.arange(len(layouts), dtype=np.int32), counts)
    start = np.repeat(first_atom[:-1], counts)

    def rows(places: list[NDArray[np.int32]], *shape: int) -> NDArray[np.int32]:
        joined = _joined(places, np.int32, *shape)
        offset = start.reshape(-1, *(1 for _ in shape))
        return np.where(joined >= 0, joined + offset, ABSENT).astype(np.int32)

    numbers = np.array(_chain_numbers(structure.chains), np.int32).reshape(-1, 3)
    chain = np.array([r.chain for r in structure.residues], np.int32)[residue]
    token_first = rows([layout.first_atoms for layout in layouts])
    per_token = np.diff(np.append(token_first, first_atom[-1]))
    # Batches number the atoms of a token in a byte.
    narrowed(per_token, np.uint8, "number of atoms of a token")
    return {
        "token_residue": residue,
        "token_first_atom": np.append(token_first, first_atom[-1]).astype(np.int32),
        "token_residue_type": narrowed(
            np.repeat([la.residue_type for la in layouts], counts), np.uint8, "residue class"
        ),
        "token_residue_index": np.array([r.number for r in structure.residues], np.int32)[residue],
        "token_chain": chain,
        "chain_first_token": np.searchsorted(chain, np.arange(len(structure.chains) + 1)).astype(
            np.int32
        ),
        "token_entity": numbers[chain, 1],
        "token_symmetry": numbers[chain, 2],
        "token_element": _joined([layout.token_elements for layout in layouts], np.uint8),
        "token_molecule": narrowed(
            np.repeat([la.molecule for la in layouts], counts), np.uint8, "molecule"
        ),
        "token_center": rows([layout.centers for layout in layouts]),
        "token_representative": rows([layout.representatives for layout in layouts]),
        "token_frame": rows([layout.frames for layout in layouts], 3),
        "atom_token": np.repeat(np.arange(len(residue), dtype=np.int32), per_token),
    }


def _residue_columns(
    structure: Structure,
    layouts: list[ResidueLayout],
    first_atom: NDArray[np.int32],
    bonded: Mapping[int, list[str]],
) -> dict[str, NDArray[Any]]:
    table_of: dict[tuple[int, tuple[str, ...]], int] = {}
    tables: list[NDArray[np.uint16]] = []
    symmetry = []
    for residue, layout in enumerate(layouts):
        # An atom that is bonded to another residue is not equivalent to others.
        bonded_names = tuple(name for name in bonded.get(residue, ()) if name in layout.names)
        key = id(layout), bonded_names
        if key not in table_of:
            fixed = [layout.names.index(name) for name in bonded_names]
            table = layout.automorphisms
            table = table[(table[:, fixed] == np.array(fixed, int)).all(axis=1)]
            table_of[key] = len(tables) if len(table) > 1 else ABSENT
            tables += [table] if len(table) > 1 else []
        symmetry.append(table_of[key])
    return {
        "residue_chain": np.array([r.chain for r in structure.residues], np.int32),
        "residue_number": np.array([r.number for r in structure.residues], np.int32),
        "residue_component": COMPONENT.array([r.component for r in structure.residues]),
        "residue_first_atom": first_atom,
        "residue_symmetry": np.array(symmetry, np.int32),
        "symmetry_sizes": np.array([table.shape for table in tables], np.int32).reshape(-1, 2),
        "symmetry_places": _joined([table.reshape(-1) for table in tables], np.uint16),
    }


def _bonds(
    structure: Structure,
    layouts: list[ResidueLayout],
    first_atom: NDArray[np.int32],
    row_of: NDArray[np.int64],
) -> NDArray[np.int32]:
    """Return bonds inside components of several tokens, and between residues that are near enough.

    Distances use the positions in the file, even of atoms that count as not resolved.
    """
    inside = [
        layout.bonds + first
        for layout, first in zip(layouts, first_atom[:-1], strict=True)
        if len(layout.bonds)
    ]
    connections = structure.connections.reshape(-1, 2)
    one, two = (structure.positions[connections[:, end]] for end in (0, 1))
    near = np.linalg.norm(one - two, axis=1) <= _LONGEST_BOND
    ends = row_of[connections]
    between = ends[(ends >= 0).all(axis=1) & near]
    pairs = np.concatenate([*inside, between]).astype(np.int32).reshape(-1, 2)
    return np.unique(np.sort(pairs, axis=1), axis=0)


def _chain_numbers(chains: tuple[Chain, ...]) -> list[tuple[int, int, int]]:
    """Return (chain, entity, copy) of each chain, numbered from 0 in order of appearance."""
    entities: dict[str, int] = {}
    copies: dict[str, int] = {}
    numbers = []
    for index, chain in enumerate(chains):
        entity = entities.setdefault(chain.entity, len(entities))
        copy = copies[chain.entity] = copies.get(chain.entity, -1) + 1
        numbers.append((index, entity, copy))
    return numbers


def _starts(counts: list[int]) -> NDArray[np.int32]:
    """Return the start of each run, and the end of the last."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)


def _joined(parts: list[Any], dtype: Any, *shape: int) -> NDArray[Any]:
    """Concatenate arrays, of which there may be none.

    Raises:
        DataError: an integer is beyond the limits of the dtype.
    """
    joined = np.concatenate([np.empty((0, *shape), dtype), *parts])
    return joined.astype(dtype) if dtype is np.bool_ else narrowed(joined, dtype, "column value")
