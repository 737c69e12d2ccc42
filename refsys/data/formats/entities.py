"""Reader of chains and sequences: the categories of entities and `_struct_asym`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from refsys.data.formats.cif_tables import CifTables
from refsys.data.formats.components import component_type
from refsys.data.formats.notes import NoteKind, Notes
from refsys.data.formats.polymers import (
    POLYMER_KINDS,
    inferred_type,
    keyword,
    polymer_kind,
    polymer_type,
)
from refsys.data.store.columns import COMPONENT

_CATEGORIES = ("entity", "entity_poly", "entity_poly_seq", "struct_asym")

_UNKNOWN_POLYMER = NoteKind(
    "polymer has an unknown type and is read by its components",
    "polymers have an unknown type and are read by their components",
)


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of the asymmetric unit, as `_struct_asym` names it.

    Attributes:
        name: label_asym_id.
        entity: label_entity_id.
        kind: protein, rna, dna, other (a polymer of another type), ligand or water.
        polymer: Type of a polymer in the spelling of the mmCIF dictionary, as in
            ``polypeptide(L)``; empty for other chains.
    """

    name: str
    entity: str
    kind: str
    polymer: str = ""


class Entities(NamedTuple):
    """Chains and sequences of a file.

    Attributes:
        chains: In the file's order, waters among them.
        sequences: Components that are allowed at each position, by polymer entity.
    """

    chains: list[Chain]
    sequences: dict[str, list[list[str]]]


def lists_entities(tables: CifTables) -> bool:
    """Return whether a file has any of the categories that list chains and sequences."""
    return any(tables.has(category) for category in _CATEGORIES)


def read_entities(tables: CifTables, notes: Notes) -> Entities:
    """Read the chains and the sequences of the polymers among them.

    Args:
        tables: The file.
        notes: Collects polymers of an unknown type.

    Raises:
        DataError: a category is missing, incomplete or contradicts another.
    """
    entities = tables.columns("entity", ["id", "type"])
    types = {
        entity: keyword(value)
        for entity, value in zip(entities["id"], entities["type"], strict=True)
    }
    polymers = tables.columns("entity_poly", ["entity_id", "type"], required=False)
    polymer_types = dict(zip(polymers["entity_id"], polymers["type"], strict=True))
    table = tables.columns("struct_asym", ["id", "entity_id"])
    entity_of: dict[str, str] = {}
    for row, (name, entity) in enumerate(zip(table["id"], table["entity_id"], strict=True), 1):
        if not name or not entity or name in entity_of:
            raise tables.error(f"_struct_asym row {row}: chain {name} is unnamed or listed twice")
        if entity not in types:
            raise tables.error(f"_struct_asym row {row}: entity {entity} is not in _entity")
        if types[entity] == "polymer" and entity not in polymer_types:
            raise tables.error(f"_entity: polymer {entity} is not in _entity_poly")
        entity_of[name] = entity
    listed_types = {
        entity: polymer_types[entity]
        for entity in sorted(set(entity_of.values()))
        if entity in polymer_types and types[entity] != "water"
    }
    sequences = _read_sequences(tables, list(listed_types))
    kind_of = component_kinds(tables)
    known_types = {
        entity: polymer_type(value) or _inferred(entity, value, sequences[entity], kind_of, notes)
        for entity, value in listed_types.items()
    }
    chains = []
    for name, entity in entity_of.items():
        kind = "water" if types[entity] == "water" else "ligand"
        polymer = known_types.get(entity, "")
        chains.append(Chain(name, entity, POLYMER_KINDS.get(polymer, kind), polymer))
    return Entities(chains, sequences)


def component_kinds(tables: CifTables) -> Callable[[str], str | None]:
    """Return a function from a component to the kind of polymer that it links into.

    The function uses the type in the dictionary, or else the type in `_chem_comp`.
    """
    table = tables.columns("chem_comp", ["id"], optional=["type"], required=False)
    types: Mapping[str, str | None] = {
        COMPONENT.normalized(name or ""): value
        for name, value in zip(table["id"], table["type"], strict=True)
    }
    return lambda name: polymer_kind(component_type(name) or types.get(name))


def _inferred(
    entity: str,
    value: str | None,
    sequence: list[list[str]],
    kind_of: Callable[[str], str | None],
    notes: Notes,
) -> str:
    inferred = inferred_type((components[0] for components in sequence), kind_of)
    notes.add(_UNKNOWN_POLYMER, f"entity {entity} ({value or 'no type'}) as {inferred}")
    return inferred


def _read_sequences(tables: CifTables, polymers: list[str]) -> dict[str, list[list[str]]]:
    """Return the components that are allowed at each SEQRES position, by polymer entity."""
    columns = ["entity_id", "num", "mon_id"]
    table = tables.columns("entity_poly_seq", columns, required=bool(polymers))
    sequences: dict[str, list[list[str]]] = {entity: [] for entity in polymers}
    rows = zip(table["entity_id"], table["num"], table["mon_id"], strict=True)
    for row, (entity, number, component) in enumerate(rows, start=1):
        sequence = sequences.get(entity or "")
        if sequence is None:
            continue
        # A position that is listed again allows several components.
        allowed = {str(len(sequence) + 1)} | ({str(len(sequence))} if sequence else set())
        if not component or number not in allowed:
            raise tables.error(f"_entity_poly_seq row {row}: num {number} is out of order")
        name = COMPONENT.normalized(component)
        if fault := COMPONENT.fault(name):
            raise tables.error(f"_entity_poly_seq row {row}: {fault}")
        if number == str(len(sequence)):
            sequence[-1].append(name)
        else:
            sequence.append([name])
    for entity, sequence in sequences.items():
        if not sequence:
            raise tables.error(f"_entity_poly_seq: polymer {entity} has no sequence")
    return sequences
