"""Reading mmCIF into tables: chains, residues, atoms, bonds of the asymmetric unit.

Kept are the first model's heavy atoms, waters dropped, one alternative location per residue (the
one of highest mean occupancy). Polymers have every SEQRES residue, modelled or not. A file that
contradicts itself is refused. `assembly` makes biological assemblies of what is read here.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refsys.data.atom_site import AtomSite, residue_key
from refsys.data.cif_tables import CifTables, Column

# Chemical bonds between residues. Disulfides join polymers; metals only coordinate.
_COVALENT = frozenset({"covale", "covale_base", "covale_phosphate", "covale_sugar"})
_IDENTITY = frozenset({None, "1_555"})
# Beyond it a value is a mistake, ångström.
_LARGEST_RESOLUTION = 1000.0
_CONNECTION_OPTIONAL = ("auth_seq_id", "symmetry")
_POLYMER_KINDS = {
    "polypeptide(L)": "protein",
    "polypeptide(D)": "protein",
    "polyribonucleotide": "rna",
    "polydeoxyribonucleotide": "dna",
    "polydeoxyribonucleotide/polyribonucleotide hybrid": "dna",
}


@dataclass(frozen=True, slots=True)
class Chain:
    """One chain of the asymmetric unit, as `_struct_asym` names it.

    Attributes:
        name: label_asym_id.
        entity: label_entity_id.
        kind: protein, rna, dna, other (a polymer of another type), ligand or water.
    """

    name: str
    entity: str
    kind: str


@dataclass(frozen=True, slots=True)
class Residue:
    """A SEQRES position of a polymer, or one component of a non-polymer.

    Attributes:
        chain: Index of its chain.
        number: SEQRES position from 1, or its place in a non-polymer chain from 1.
        component: Chemical component, as in ``ALA``.
        atoms: Rows of its atoms in the atom columns.
        listed: Components that SEQRES has at its position; empty in a non-polymer.
    """

    chain: int
    number: int
    component: str
    atoms: range
    listed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Structure:
    """What a file holds, atoms sorted by residue.

    Attributes:
        entry: The data block's name.
        chains: In the file's order.
        residues: By chain, then by number.
        names: [atom] atom names.
        elements: [atom] uint8 atomic numbers.
        charges: [atom] int8 formal charges.
        positions: [atom, 3] float32, ångström.
        connections: [bond, 2] int32 atom rows: covalent bonds between residues, as `_struct_conn`
            says.
        component_bonds: Names of bonded atoms by component, where the file defines them.
        resolution: Of the experiment, ångström; 0 if it has none.
        released: Day of its first release, or else of its deposition, as in ``2008-07-15``; empty
            if the file says neither.
        entry_id: ``_entry.id``, empty if the file has none.
        notes: Sentences on what the file holds and is not read.
    """

    entry: str
    chains: tuple[Chain, ...]
    residues: tuple[Residue, ...]
    names: NDArray[np.str_]
    elements: NDArray[np.uint8]
    charges: NDArray[np.int8]
    positions: NDArray[np.float32]
    connections: NDArray[np.int32]
    component_bonds: Mapping[str, tuple[tuple[str, str], ...]]
    resolution: float
    released: str
    entry_id: str = ""
    notes: tuple[str, ...] = ()


def read_structure(path: Path) -> Structure:
    """Reads an mmCIF or BinaryCIF file, see `CifTables`.

    Raises:
        DataError: the file is missing, damaged, incomplete or contradicts itself.
    """
    tables = CifTables(path)
    listed = _read_chains(tables)
    chains = [chain for chain in listed if chain.kind != "water"]
    if not chains:
        raise tables.error("nothing but water")
    sequences = _read_sequences(tables, chains)
    waters = {chain.name for chain in listed if chain.kind == "water"}
    atoms = AtomSite(tables, {chain.name: chain.entity for chain in listed}, waters)
    rows_of: dict[tuple[str, str], list[int]] = {}
    for row in atoms.best_locations():
        rows_of.setdefault(atoms.keys[row], []).append(row)

    residues: list[Residue] = []
    keys: list[tuple[str, str]] = []
    order: list[int] = []
    for index, chain in enumerate(chains):
        count = len(order)
        for key, number, allowed in _expected_residues(chain, sequences, rows_of):
            rows = rows_of.pop(key, [])
            component = atoms.components[rows[0]] if rows else allowed[0]
            if allowed and component not in allowed:
                raise tables.error(
                    f"_atom_site row {rows[0] + 1}: {component} stands where _entity_poly_seq "
                    f"has {' or '.join(allowed)} (chain {chain.name}, position {number})"
                )
            first = len(order)
            order.extend(rows)
            atom_rows = range(first, len(order))
            residues.append(Residue(index, number, component, atom_rows, tuple(allowed)))
            keys.append(key)
        if len(order) == count:
            raise tables.error(f"chain {chain.name} has no heavy atoms; is the file truncated?")
    for (chain_name, position), rows in rows_of.items():
        raise tables.error(
            f"_atom_site row {rows[0] + 1}: label_seq_id {position} is not a position of the "
            f"sequence of chain {chain_name}"
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
        connections=_read_connections(tables, dict(zip(keys, residues, strict=True)), names),
        component_bonds=_read_component_bonds(tables),
        resolution=_read_resolution(tables),
        released=_read_released(tables),
        entry_id=tables.entry_id(),
        notes=tuple(tables.notes),
    )


def _read_chains(tables: CifTables) -> list[Chain]:
    entities = tables.columns("entity", ["id", "type"])
    types = dict(zip(entities["id"], entities["type"], strict=True))
    polymers = tables.columns("entity_poly", ["entity_id", "type"], required=False)
    kinds = {
        entity: _POLYMER_KINDS.get(kind or "", "other")
        for entity, kind in zip(polymers["entity_id"], polymers["type"], strict=True)
    }
    table = tables.columns("struct_asym", ["id", "entity_id"])
    chains: dict[str, Chain] = {}
    for row, (name, entity) in enumerate(zip(table["id"], table["entity_id"], strict=True), 1):
        if not name or not entity or name in chains:
            raise tables.error(f"_struct_asym row {row}: chain {name} is unnamed or listed twice")
        if entity not in types:
            raise tables.error(f"_struct_asym row {row}: entity {entity} is not in _entity")
        if types[entity] == "polymer" and entity not in kinds:
            raise tables.error(f"_entity: polymer {entity} is not in _entity_poly")
        kind = "water" if types[entity] == "water" else kinds.get(entity, "ligand")
        chains[name] = Chain(name, entity, kind)
    return list(chains.values())


def _read_sequences(tables: CifTables, chains: list[Chain]) -> dict[str, list[list[str]]]:
    """The components that each SEQRES position of each polymer entity may have."""
    polymers = {chain.entity for chain in chains if chain.kind != "ligand"}
    columns = ["entity_id", "num", "mon_id"]
    table = tables.columns("entity_poly_seq", columns, required=bool(polymers))
    sequences: dict[str, list[list[str]]] = {entity: [] for entity in sorted(polymers)}
    rows = zip(table["entity_id"], table["num"], table["mon_id"], strict=True)
    for row, (entity, number, component) in enumerate(rows, start=1):
        sequence = sequences.get(entity or "")
        if sequence is None:
            continue
        # A position that is listed again has several components.
        allowed = {str(len(sequence) + 1)} | ({str(len(sequence))} if sequence else set())
        if not component or number not in allowed:
            raise tables.error(f"_entity_poly_seq row {row}: num {number} is out of order")
        if number == str(len(sequence)):
            sequence[-1].append(component)
        else:
            sequence.append([component])
    for entity, sequence in sequences.items():
        if not sequence:
            raise tables.error(f"_entity_poly_seq: polymer {entity} has no sequence")
    return sequences


def _expected_residues(
    chain: Chain, sequences: dict[str, list[list[str]]], found: Iterable[tuple[str, str]]
) -> Iterator[tuple[tuple[str, str], int, list[str]]]:
    """(key, number, allowed components) of each residue that a chain has; any if none is listed."""
    if chain.kind == "ligand":
        keys = [key for key in found if key[0] == chain.name]
        for number, key in enumerate(keys, start=1):
            yield key, number, []
    else:
        for number, allowed in enumerate(sequences[chain.entity], start=1):
            yield (chain.name, str(number)), number, allowed


def _read_connections(
    tables: CifTables, residues: dict[tuple[str, str], Residue], names: NDArray[np.str_]
) -> NDArray[np.int32]:
    pairs: set[tuple[int, int]] = set()
    for ends in _connections(tables):
        rows = [
            row
            for key, atom in ends
            if (residue := residues.get(key))
            for row in residue.atoms
            if names[row] == atom
        ]
        if len(set(rows)) == 2:
            pairs.add((min(rows), max(rows)))
    return np.array(sorted(pairs), dtype=np.int32).reshape(-1, 2)


def _read_component_bonds(tables: CifTables) -> dict[str, tuple[tuple[str, str], ...]]:
    inside = tables.columns("chem_comp_bond", ["comp_id", "atom_id_1", "atom_id_2"], required=False)
    bonds: dict[str, list[tuple[str, str]]] = {}
    for component, one, two in zip(*inside.values(), strict=True):
        bonds.setdefault(component or "", []).append((one or "", two or ""))
    return {component: tuple(pairs) for component, pairs in bonds.items()}


def _read_resolution(tables: CifTables) -> float:
    """The first number that a diffraction or microscopy category gives, 0 if none does."""
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
    """The earliest day of the first of these categories that has any."""
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


_End = tuple[tuple[str, str], str]


def _connections(tables: CifTables) -> Iterator[tuple[_End, _End]]:
    """Both ends, (residue key, atom name), of each covalent connection in the asymmetric unit."""
    numbers, parts = (1, 2), ("label_asym_id", "label_seq_id", "label_atom_id")
    table = tables.columns(
        "struct_conn",
        ["conn_type_id", *(f"ptnr{number}_{part}" for number in numbers for part in parts)],
        optional=[f"ptnr{number}_{part}" for number in numbers for part in _CONNECTION_OPTIONAL],
        required=False,
    )
    for row, kind in enumerate(table["conn_type_id"]):
        symmetry = {table[f"ptnr{number}_symmetry"][row] for number in numbers}
        if kind in _COVALENT and symmetry <= _IDENTITY:
            one, two = (_connection_end(table, number, row) for number in numbers)
            yield one, two


def _connection_end(table: dict[str, Column], number: int, row: int) -> _End:
    def value(part: str) -> str | None:
        return table[f"ptnr{number}_{part}"][row]

    key = residue_key(value("label_asym_id") or "", value("label_seq_id"), value("auth_seq_id"))
    return key, value("label_atom_id") or ""
