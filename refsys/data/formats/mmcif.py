"""Reader of structures: chains, residues, atoms and bonds of the asymmetric unit.

A structure has the first model's heavy atoms without waters, in one alternative location per
residue (the most complete and best occupied one). Polymers have every SEQRES residue, modelled or
not. A file that contradicts itself is refused; omissions are noted.
`refsys.data.prepare.assembly` builds biological assemblies from the result.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refsys.data.formats.atom_site import AtomSite, ResidueKey
from refsys.data.formats.cif_tables import CifTables
from refsys.data.formats.connections import ConnectedResidue, read_connections
from refsys.data.formats.entities import Chain, lists_entities, read_entities
from refsys.data.formats.implied_entities import implied_entities
from refsys.data.formats.modelled_chains import chains_with_atoms
from refsys.data.formats.notes import Notes
from refsys.data.store.columns import ATOM_NAME, COMPONENT

# Larger values are mistakes, ångström.
_LARGEST_RESOLUTION = 1000.0
# The dictionary's largest component has 240 atoms; the work per residue is quadratic in its atoms.
_MOST_ATOMS_OF_RESIDUE = 1024


@dataclass(frozen=True, slots=True)
class Residue:
    """A SEQRES position of a polymer, or one component of a non-polymer.

    Attributes:
        chain: Index of the chain.
        number: SEQRES position, or the index in a non-polymer chain; both from 1.
        component: Chemical component, as in ``ALA``.
        atoms: Rows of the residue's atoms in the atom columns.
        listed: Components that SEQRES lists at the position; empty in a non-polymer.
    """

    chain: int
    number: int
    component: str
    atoms: range
    listed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Structure:
    """Structure as read from a file, atoms sorted by residue.

    Attributes:
        entry: Name of the data block.
        chains: In the file's order.
        residues: By chain, then by number.
        names: [atom] atom names.
        elements: [atom] uint8 atomic numbers.
        charges: [atom] int8 formal charges.
        positions: [atom, 3] float32, ångström.
        resolved: [atom] bool, False for atoms of zero occupancy.
        connections: [bond, 2] int32 atom rows: covalent bonds between residues, from
            `_struct_conn`.
        component_bonds: Names of bonded atoms by component, where the file defines them.
        resolution: Resolution of the experiment, ångström; 0 if it has none.
        released: Day of the first release, or else of the deposition, as in ``2008-07-15``; empty
            if the file has neither.
        entry_id: ``_entry.id``, empty if the file has none.
        notes: Sentences on what was left out or read in an unusual way.
    """

    entry: str
    chains: tuple[Chain, ...]
    residues: tuple[Residue, ...]
    names: NDArray[np.str_]
    elements: NDArray[np.uint8]
    charges: NDArray[np.int8]
    positions: NDArray[np.float32]
    resolved: NDArray[np.bool_]
    connections: NDArray[np.int32]
    component_bonds: Mapping[str, tuple[tuple[str, str], ...]]
    resolution: float
    released: str
    entry_id: str = ""
    notes: tuple[str, ...] = ()


def read_structure(path: Path) -> Structure:
    """Read the asymmetric unit of an mmCIF or BinaryCIF file, see `CifTables`.

    Raises:
        DataError: the file is missing, damaged, incomplete or contradicts itself.
    """
    tables = CifTables(path)
    notes = Notes()
    if lists_entities(tables):
        entities = read_entities(tables, notes)
        _check_chains(tables, entities.chains)
        atoms = AtomSite(tables, notes)
        atoms.check_entities({chain.name: chain.entity for chain in entities.chains})
    else:
        atoms = AtomSite(tables, notes)
        entities = implied_entities(tables, atoms, notes)
        _check_chains(tables, entities.chains)
    waters = {chain.name for chain in entities.chains if chain.kind == "water"}
    rows = [
        row
        for row in atoms.first_model
        if not (atoms.is_hydrogen(row) or atoms.is_water(row) or atoms.keys[row].chain in waters)
    ]
    rows_of: dict[ResidueKey, list[int]] = {}
    for row in atoms.best_locations(rows):
        rows_of.setdefault(atoms.keys[row], []).append(row)
    chains = chains_with_atoms(tables, entities.chains, atoms, rows_of, notes)

    residues: list[Residue] = []
    connected: list[ConnectedResidue] = []
    order: list[int] = []
    keys_of: dict[str, list[ResidueKey]] = {}
    for key in rows_of:
        keys_of.setdefault(key.chain, []).append(key)
    for index, chain in enumerate(chains):
        keys = keys_of.get(chain.name, [])
        for key, number, allowed in _expected_residues(chain, entities.sequences, keys):
            rows = rows_of.pop(key, [])
            component = atoms.components[rows[0]] if rows else allowed[0]
            if allowed and component not in allowed:
                raise atoms.error(
                    rows[0],
                    f"{component} stands where _entity_poly_seq has {' or '.join(allowed)} "
                    f"(chain {chain.name}, position {number})",
                )
            if len(rows) > _MOST_ATOMS_OF_RESIDUE:
                raise atoms.error(
                    rows[0],
                    f"{atoms.residue(rows[0])} has {len(rows)} heavy atoms; a residue has at most "
                    f"{_MOST_ATOMS_OF_RESIDUE}",
                )
            first = len(order)
            order.extend(rows)
            places = range(first, len(order))
            residues.append(Residue(index, number, component, places, tuple(allowed)))
            if rows:
                connected.append(_connected(atoms, rows[0], places))
    for key, rows in rows_of.items():
        label_seq_id = atoms.numbers[rows[0]] or "?"
        raise atoms.error(
            rows[0],
            f"label_seq_id {label_seq_id} is not a position of the sequence of chain {key.chain}",
        )
    names = np.array([atoms.names[row] for row in order])
    return Structure(
        entry=tables.name,
        chains=tuple(chains),
        residues=tuple(residues),
        names=names,
        elements=atoms.elements[order],
        charges=atoms.charges[order],
        positions=atoms.positions[order],
        resolved=atoms.occupancies[order] > 0,
        connections=read_connections(tables, connected, names, notes),
        component_bonds=_read_component_bonds(tables),
        resolution=_read_resolution(tables),
        released=_read_released(tables),
        entry_id=tables.entry_id(),
        notes=(*tables.notes, *notes.sentences()),
    )


def _check_chains(tables: CifTables, chains: list[Chain]) -> None:
    if all(chain.kind == "water" for chain in chains):
        raise tables.error("nothing but water")


def _expected_residues(
    chain: Chain, sequences: Mapping[str, list[list[str]]], keys: list[ResidueKey]
) -> Iterator[tuple[ResidueKey, int, list[str]]]:
    """Yield (key, number, allowed components) of each residue; an empty list allows any.

    Args:
        chain: The chain.
        sequences: Components of each position by polymer entity.
        keys: Residues of the chain that have atoms.
    """
    if chain.kind == "ligand":
        for number, key in enumerate(keys, start=1):
            yield key, number, []
    else:
        for number, allowed in enumerate(sequences[chain.entity], start=1):
            yield ResidueKey(chain.name, str(number)), number, allowed


def _connected(atoms: AtomSite, row: int, places: range) -> ConnectedResidue:
    return ConnectedResidue(
        atoms.chains[row],
        atoms.numbers[row],
        atoms.author_numbers[row],
        atoms.insertion_codes[row],
        atoms.components[row],
        places,
    )


def _read_component_bonds(tables: CifTables) -> dict[str, tuple[tuple[str, str], ...]]:
    inside = tables.columns("chem_comp_bond", ["comp_id", "atom_id_1", "atom_id_2"], required=False)
    bonds: dict[str, list[tuple[str, str]]] = {}
    for component, *ends in zip(*inside.values(), strict=True):
        one, two = (ATOM_NAME.normalized(end or "") for end in ends)
        bonds.setdefault(COMPONENT.normalized(component or ""), []).append((one, two))
    return {component: tuple(pairs) for component, pairs in bonds.items()}


def _read_resolution(tables: CifTables) -> float:
    """Return the first valid resolution of a diffraction or microscopy category, 0 if none."""
    sources = (("refine", "ls_d_res_high"), ("em_3d_reconstruction", "resolution"))
    for category, name in sources:
        for value in tables.columns(category, [], optional=[name], required=False)[name]:
            try:
                resolution = float(value or "")
            except ValueError:
                continue
            if 0.0 < resolution < _LARGEST_RESOLUTION:
                return resolution
    return 0.0


def _read_released(tables: CifTables) -> str:
    """Return the earliest day of the revision history, or else the deposition; empty if neither."""
    sources = (
        ("pdbx_audit_revision_history", "revision_date"),
        ("pdbx_database_status", "recvd_initial_deposition_date"),
    )
    for category, name in sources:
        column = tables.columns(category, [], optional=[name], required=False)[name]
        if days := [day for day in column if day and _is_day(day)]:
            return min(days)
    return ""


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
