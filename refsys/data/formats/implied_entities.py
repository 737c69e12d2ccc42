"""Chains and sequences of a file without categories of entities, implied by its residues."""

from itertools import pairwise
from typing import NamedTuple

from refsys.data.formats.atom_site import AtomSite, ResidueKey
from refsys.data.formats.cif_tables import CifTables
from refsys.data.formats.entities import Chain, Entities, component_kinds
from refsys.data.formats.notes import NoteKind, Notes
from refsys.data.formats.polymers import POLYMER_KINDS, inferred_type, keyword
from refsys.data.store.columns import COMPONENT

_BACKBONES = {
    "protein": frozenset({"N", "CA", "C"}),
    "dna": frozenset({"C1'", "C3'", "C4'"}),
    "rna": frozenset({"C1'", "C3'", "C4'", "O2'"}),
}
# Fewest linking residues of a polymer without ATOM records; fewer are ligands.
_FEWEST_LINKED = 2

_GAP = NoteKind(
    "gap in the numbering of a polymer is not filled",
    "gaps in the numbering of polymers are not filled",
)


class _Residue(NamedTuple):
    """A residue of `_atom_site`.

    Attributes:
        number: label_seq_id, or else auth_seq_id.
        code: Insertion code.
        rows: Rows of all models.
        components: Components, in the file's order.
        kind: Kind of polymer that it links into; None for a ligand.
        is_atom: Whether it has ATOM records.
        is_numbered: Whether it has a label_seq_id.
    """

    number: str
    code: str
    rows: list[int]
    components: list[str]
    kind: str | None
    is_atom: bool
    is_numbered: bool

    @property
    def label(self) -> str:
        """Number and insertion code."""
        return f"{self.number}{self.code}"


def implied_entities(tables: CifTables, atoms: AtomSite, notes: Notes) -> Entities:
    """Return the chains and sequences that the residues imply, and renumber `atoms` accordingly.

    Residues that link into a polymer, by the type of their component or by their backbone, form the
    chain, in the file's order. Every other residue of such a chain becomes a chain of its own.
    Chains of equal sequences, and equal ligands, are one entity.

    Args:
        tables: Tables of the file.
        atoms: Its atoms; their keys are replaced.
        notes: Collects what the file lacks.

    Raises:
        DataError: a record cannot hold a component.
    """
    notes.state(
        "no _entity, _entity_poly_seq and _struct_asym: the sequence of each polymer is that of "
        "the residues in _atom_site"
    )
    residues = _residues(tables, atoms)
    names = set(residues)
    listing = _Listing(atoms)
    for name, members in residues.items():
        linked = _polymer_residues(members)
        if not linked:
            listing.add_ligand(name, members)
            continue
        listing.add_polymer(name, linked)
        _note_gaps(name, linked, notes)
        numbers = {residue.rows[0] for residue in linked}
        for residue in members:
            if residue.rows[0] not in numbers:
                ligand = _unused(f"{name}-{residue.components[0]}{residue.number}", names)
                listing.add_ligand(ligand, [residue])
    return Entities(listing.chains, listing.sequences)


class _Listing:
    """Builder of the chains and sequences.

    Attributes:
        chains: Chains added by `add_polymer` and `add_ligand`.
        sequences: Components that are allowed at each position, by polymer entity.
    """

    def __init__(self, atoms: AtomSite) -> None:
        self.chains: list[Chain] = []
        self.sequences: dict[str, list[list[str]]] = {}
        self._atoms = atoms
        self._entities: dict[tuple[str, tuple[str, ...]], str] = {}

    def add_polymer(self, name: str, residues: list[_Residue]) -> None:
        """Add a polymer of these residues, numbered from 1."""
        kinds = {residue.components[0]: residue.kind for residue in residues}
        polymer = inferred_type((r.components[0] for r in residues), kinds.get)
        entity = self._entity(polymer, residues)
        self.chains.append(Chain(name, entity, POLYMER_KINDS[polymer], polymer))
        self.sequences[entity] = [residue.components for residue in residues]
        for number, residue in enumerate(residues, start=1):
            self._renumber(residue, ResidueKey(name, str(number)))

    def add_ligand(self, name: str, residues: list[_Residue]) -> None:
        """Add a chain of residues that are no polymer."""
        self.chains.append(Chain(name, self._entity("", residues), "ligand"))
        used: set[str] = set()
        for residue in residues:
            # Residues of one author number may differ in label_seq_id alone.
            self._renumber(residue, ResidueKey(name, _unused(f"auth {residue.label}", used)))

    def _entity(self, polymer: str, residues: list[_Residue]) -> str:
        contents = tuple("/".join(residue.components) for residue in residues)
        return self._entities.setdefault((polymer, contents), str(len(self._entities) + 1))

    def _renumber(self, residue: _Residue, key: ResidueKey) -> None:
        for row in residue.rows:
            self._atoms.keys[row] = key


def _residues(tables: CifTables, atoms: AtomSite) -> dict[str, list[_Residue]]:
    """Return the residues of each chain except waters, in the file's order."""
    rows_of: dict[tuple[str, str | None, str | None, str | None], list[int]] = {}
    identifiers = zip(
        atoms.chains, atoms.numbers, atoms.author_numbers, atoms.insertion_codes, strict=True
    )
    for row, key in enumerate(identifiers):
        if not atoms.is_water(row):
            rows_of.setdefault(key, []).append(row)
    kind_of = component_kinds(tables)
    residues: dict[str, list[_Residue]] = {}
    for (chain, number, author_number, code), rows in rows_of.items():
        components = list(dict.fromkeys(atoms.components[row] for row in rows))
        for component in components:
            if fault := COMPONENT.fault(component):
                raise atoms.error(rows[0], f"{atoms.residue(rows[0])}: {fault}")
        is_atom = any(keyword(atoms.groups[row]) == "atom" for row in rows)
        kind = kind_of(components[0])
        if kind is None and is_atom:
            names = {atoms.names[row] for row in rows}
            kind = next(
                (kind for kind in ("rna", "dna", "protein") if names >= _BACKBONES[kind]), None
            )
        residues.setdefault(chain, []).append(
            _Residue(
                number or author_number or "",
                code or "",
                rows,
                components,
                kind,
                is_atom,
                number is not None,
            )
        )
    return residues


def _polymer_residues(residues: list[_Residue]) -> list[_Residue]:
    """Return the residues of a chain that form its polymer; empty if it has no polymer."""
    linking = [residue for residue in residues if residue.kind]
    if len(linking) < _FEWEST_LINKED and not any(residue.is_atom for residue in linking):
        return []
    # Caps and other parts of a polymer that do not link are numbered along with it.
    return [r for r in residues if r.kind or (linking and r.is_atom and r.is_numbered)]


def _note_gaps(chain: str, residues: list[_Residue], notes: Notes) -> None:
    numbers = [int(r.number) if r.number.lstrip("-").isdecimal() else None for r in residues]
    for one, two in pairwise(numbers):
        if one is not None and two is not None and two - one > 1:
            notes.add(_GAP, f"{chain} {one} - {chain} {two}")


def _unused(name: str, names: set[str]) -> str:
    """Return a name, with a number appended if it is in use, and add it to `names`."""
    unused, number = name, 1
    while unused in names:
        number += 1
        unused = f"{name}-{number}"
    names.add(unused)
    return unused
