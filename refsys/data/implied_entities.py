"""Chains and sequences of a file that has `_atom_site` alone: those of its residues."""

from itertools import pairwise
from typing import NamedTuple

from refsys.data.atom_site import AtomSite, ResidueKey
from refsys.data.cif_tables import CifTables
from refsys.data.entities import Chain, Entities, component_kinds
from refsys.data.notes import NoteKind, Notes
from refsys.data.polymers import POLYMER_KINDS, inferred_type, keyword

_BACKBONES = {
    "protein": frozenset({"N", "CA", "C"}),
    "dna": frozenset({"C1'", "C3'", "C4'"}),
    "rna": frozenset({"C1'", "C3'", "C4'", "O2'"}),
}
# A residue that no atom record (ATOM) and no neighbour shows to be of a polymer is a ligand.
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
        rows: Its rows, of all models.
        components: Its components, in the file's order.
        kind: Kind of polymers that it links into.
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


def implied_entities(tables: CifTables, atoms: AtomSite, notes: Notes) -> Entities:
    """Return the chains and sequences that the residues imply, and renumber `atoms` by them.

    Residues that link into polymers, by the type of their component or by their backbone, are the
    chain, in the file's order. Each other residue of such a chain becomes a chain of its own.
    Chains of equal sequences, and equal ligands, are one entity.

    Args:
        tables: The file.
        atoms: Its atoms, whose keys become those of the chains.
        notes: Where it is noted what the file lacks.
    """
    notes.state(
        "no _entity, _entity_poly_seq and _struct_asym: the sequence of each polymer is that of "
        "the residues in _atom_site"
    )
    residues = _residues(tables, atoms)
    names = set(residues)
    entities: dict[tuple[str, tuple[str, ...]], str] = {}
    chains: list[Chain] = []
    sequences: dict[str, list[list[str]]] = {}

    def add(name: str, polymer: str, members: list[_Residue]) -> None:
        contents = tuple("/".join(residue.components) for residue in members)
        entity = entities.setdefault((polymer, contents), str(len(entities) + 1))
        chains.append(Chain(name, entity, POLYMER_KINDS.get(polymer, "ligand"), polymer))
        if polymer:
            sequences[entity] = [residue.components for residue in members]
        for number, residue in enumerate(members, start=1):
            # Ligands of one number differ in their label_seq_id alone, and are told apart by place.
            position = str(number) if polymer else f"auth {residue.number}{residue.code}"
            used = {other.number + other.code for other in members[: number - 1]}
            if not polymer and residue.number + residue.code in used:
                position += f" ({number})"
            for row in residue.rows:
                atoms.keys[row] = ResidueKey(name, position)

    for name, members in residues.items():
        linked = _polymer_residues(members)
        if not linked:
            add(name, "", members)
            continue
        kinds = {residue.components[0]: residue.kind for residue in linked}
        add(name, inferred_type((r.components[0] for r in linked), kinds.get), linked)
        _note_gaps(name, linked, notes)
        for residue in members:
            if residue not in linked:
                ligand = _unused(f"{name}-{residue.components[0]}{residue.number}", names)
                add(ligand, "", [residue])
    return Entities(chains, sequences)


def _residues(tables: CifTables, atoms: AtomSite) -> dict[str, list[_Residue]]:
    """Return the residues of each chain that are no water, in the file's order."""
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
    """Return the residues of a chain that are its polymer, none if it has no polymer."""
    linking = [residue for residue in residues if residue.kind]
    if len(linking) < _FEWEST_LINKED and not any(residue.is_atom for residue in linking):
        return []
    # Caps and other parts of a polymer that link into none are numbered along with it.
    return [r for r in residues if r.kind or (linking and r.is_atom and r.is_numbered)]


def _note_gaps(chain: str, residues: list[_Residue], notes: Notes) -> None:
    numbers = [int(r.number) if r.number.lstrip("-").isdecimal() else None for r in residues]
    for one, two in pairwise(numbers):
        if one is not None and two is not None and two - one > 1:
            notes.add(_GAP, f"{chain} {one} - {chain} {two}")


def _unused(name: str, names: set[str]) -> str:
    """Return a name, with a number behind it if it is used, and mark it as used."""
    unused, number = name, 1
    while unused in names:
        number += 1
        unused = f"{name}-{number}"
    names.add(unused)
    return unused
