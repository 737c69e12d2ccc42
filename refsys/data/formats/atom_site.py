"""Reader of the `_atom_site` category: heavy atoms of the first model, checked row by row."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refsys.data.formats.cif_tables import CifTables, Column
from refsys.data.formats.components import component
from refsys.data.formats.notes import NoteKind, Notes
from refsys.data.formats.polymers import WATERS
from refsys.data.store.columns import ATOM_NAME, COMPONENT, FixedText, narrowed
from refsys.data.vocabulary import ATOMIC_NUMBERS

_COLUMNS = (
    "type_symbol",
    "label_atom_id",
    "label_comp_id",
    "label_asym_id",
    *(f"Cartn_{axis}" for axis in "xyz"),
)
_OPTIONAL_COLUMNS = (
    "group_PDB",
    "label_alt_id",
    "label_entity_id",
    "label_seq_id",
    "auth_seq_id",
    "pdbx_PDB_ins_code",
    "occupancy",
    "pdbx_formal_charge",
    "pdbx_PDB_model_num",
)
_HYDROGEN = 1
# Larger values are mistakes: no structure is a micrometre wide.
_LARGEST_COORDINATE = 1e4
_LARGEST_CHARGE = 16.0
_LARGEST_OCCUPANCY = 10.0
# Decimals of the scores of alternative locations: smaller differences are ties.
_SCORE_DIGITS = 4

_LOWER_CASE_NAME = NoteKind("atom name is read in upper case", "atom names are read in upper case")
_LOWER_CASE_COMPONENT = NoteKind(
    "component is read in upper case", "components are read in upper case"
)


class ResidueKey(NamedTuple):
    """Identity of a residue in `_atom_site`; polymers are numbered, other residues have keys.

    Attributes:
        chain: label_asym_id.
        position: label_seq_id, or else the author's number and insertion code, as in ``auth 100A``.
    """

    chain: str
    position: str

    def __str__(self) -> str:
        return f"{self.chain} {self.position.removeprefix('auth ')}".rstrip()


def residue_key(
    chain: str, label_seq_id: str | None, auth_seq_id: str | None, insertion_code: str | None
) -> ResidueKey:
    """Return the key of the residue that has these identifiers."""
    return ResidueKey(chain, label_seq_id or f"auth {auth_seq_id or ''}{insertion_code or ''}")


class AtomSite:
    """Columns of `_atom_site`, one entry per row of the file.

    Attributes:
        names: label_atom_id in upper case.
        components: label_comp_id in upper case.
        chains: label_asym_id.
        entities: label_entity_id.
        numbers: label_seq_id.
        author_numbers: auth_seq_id.
        insertion_codes: pdbx_PDB_ins_code.
        groups: group_PDB.
        keys: The residue of each row. `implied_entities` replaces them.
        elements: [row] uint8.
        charges: [row] int8.
        positions: [row, 3] float32, ångström.
        occupancies: [row] float32.
        first_model: Rows of the first model.
    """

    def __init__(self, tables: CifTables, notes: Notes) -> None:
        """Read the category.

        Args:
            tables: Tables of the file.
            notes: Collects names that are not in upper case.

        Raises:
            DataError: a value is missing or malformed.
        """
        self._tables, self._notes = tables, notes
        table = tables.columns("atom_site", _COLUMNS, optional=_OPTIONAL_COLUMNS)
        self._deposited_names = self._complete("label_atom_id", table["label_atom_id"])
        self.names = [ATOM_NAME.normalized(name) for name in self._deposited_names]
        self._deposited_components = self._complete("label_comp_id", table["label_comp_id"])
        self.components = [COMPONENT.normalized(name) for name in self._deposited_components]
        charges = self._numbers(
            table["pdbx_formal_charge"], "pdbx_formal_charge", default="0", limit=_LARGEST_CHARGE
        )
        if (fractional := np.flatnonzero(charges != np.round(charges))).size:
            row = int(fractional[0])
            raise self.error(row, f"pdbx_formal_charge {charges[row]} is not whole")
        self.charges = narrowed(charges, np.int8, "formal charge")
        self.occupancies = self._numbers(
            table["occupancy"], "occupancy", default="1", limit=_LARGEST_OCCUPANCY
        )
        axes = [
            self._numbers(table[f"Cartn_{axis}"], f"Cartn_{axis}", limit=_LARGEST_COORDINATE)
            for axis in "xyz"
        ]
        self.positions = np.stack(axes, axis=-1)
        self.elements = self._elements(table["type_symbol"])
        self._is_hydrogen: list[bool] = (self.elements == _HYDROGEN).tolist()
        self._locations = table["label_alt_id"]
        self.chains = self._complete("label_asym_id", table["label_asym_id"])
        self.entities = table["label_entity_id"]
        self.numbers = table["label_seq_id"]
        self.author_numbers = table["auth_seq_id"]
        self.insertion_codes = table["pdbx_PDB_ins_code"]
        self.groups = table["group_PDB"]
        self.keys = [
            residue_key(*identifiers)
            for identifiers in zip(
                self.chains, self.numbers, self.author_numbers, self.insertion_codes, strict=True
            )
        ]
        self.first_model = self._first_model(table["pdbx_PDB_model_num"])

    def check_entities(self, entity_of: Mapping[str, str]) -> None:
        """Check that the chain and entity of each row are those that the file lists.

        Args:
            entity_of: Entity of each chain of the file.

        Raises:
            DataError: a chain is not listed, or is of another entity.
        """
        for row, (chain, entity) in enumerate(zip(self.chains, self.entities, strict=True)):
            if chain not in entity_of:
                raise self.error(row, f"chain {chain} is not in _struct_asym")
            if entity is not None and entity != entity_of[chain]:
                raise self.error(
                    row,
                    f"label_entity_id {entity} is not the entity {entity_of[chain]} "
                    f"of chain {chain}",
                )

    def is_water(self, row: int) -> bool:
        """Return whether a row is an atom of water, by its component."""
        return self.components[row] in WATERS

    def is_hydrogen(self, row: int) -> bool:
        """Return whether a row is a hydrogen or deuterium."""
        return self._is_hydrogen[row]

    def best_locations(self, rows: list[int]) -> list[int]:
        """Return the rows of one alternative location per residue, ascending.

        Each residue gets the location whose occupancies sum to the largest share of its component,
        so that a complete location wins over a few better occupied atoms. Residues of several
        components at one position compete in the same way.

        Args:
            rows: Candidate rows.

        Raises:
            DataError: a residue has the same atom twice, or a name that no column holds.
        """
        residues: dict[ResidueKey, list[int]] = {}
        for row in rows:
            residues.setdefault(self.keys[row], []).append(row)
        best = sorted(
            row for residue_rows in residues.values() for row in self._best_location(residue_rows)
        )
        self._check_text(best)
        return best

    def residue(self, row: int) -> str:
        """Return the name of a row's residue for messages, as in ``NAG B 701``."""
        return f"{self.components[row]} {self.keys[row]}"

    def error(self, row: int, reason: str) -> Exception:
        """Return an error about a row."""
        return self._tables.error(f"_atom_site row {row + 1}: {reason}")

    def _first_model(self, models: Column) -> range:
        """Return the rows of the first model; the rows of a model must be contiguous."""
        starts = [row for row in range(len(models)) if row == 0 or models[row] != models[row - 1]]
        numbers = [models[row] for row in starts]
        for row, number in zip(starts, numbers, strict=True):
            if numbers.count(number) > 1:
                raise self.error(row, f"pdbx_PDB_model_num {number} stands in several places")
        return range(starts[1] if len(starts) > 1 else len(models))

    def _best_location(self, rows: list[int]) -> list[int]:
        locations: dict[str, list[int]] = {}
        for row in rows:
            locations.setdefault(self._locations[row] or "", []).append(row)
        shared = locations.pop("", [])
        if locations:
            scores = {
                name: self._score(location_rows, shared, rows)
                for name, location_rows in locations.items()
            }
            choice = max(sorted(locations), key=scores.__getitem__)
            component_name = self.components[locations[choice][0]]
            rivals = {
                self.components[row]
                for location_rows in locations.values()
                for row in location_rows
            }
            # Atoms without a location are left out if they are of a rejected component.
            shared = [
                row
                for row in shared
                if self.components[row] == component_name or self.components[row] not in rivals
            ]
            rows = sorted(shared + locations[choice])
        names: set[str] = set()
        for row in rows:
            if self.components[row] != self.components[rows[0]]:
                first = self.components[rows[0]]
                raise self.error(row, f"{self.components[row]} in a residue of {first}")
            if self.names[row] in names:
                numbered = self.numbers[row] or self.author_numbers[row]
                hint = "" if numbered else "; number the residues of the chain by auth_seq_id"
                raise self.error(row, f"atom {self.names[row]} occurs twice in its residue{hint}")
            names.add(self.names[row])
        return rows

    def _score(self, location_rows: list[int], shared: list[int], rows: list[int]) -> float:
        """Return the occupied share of a location's component, shared atoms included."""
        name = self.components[location_rows[0]]
        definition = component(name)
        if definition is None:
            size = len({self.names[row] for row in rows if self.components[row] == name})
        else:
            size = int((~definition.leaving).sum())
        atoms = location_rows + [row for row in shared if self.components[row] == name]
        occupied = float(self.occupancies[atoms].sum(dtype=np.float64))
        return round(occupied / max(size, 1), _SCORE_DIGITS)

    def _check_text(self, rows: list[int]) -> None:
        """Check the names to store, and note those that are read in upper case."""
        for row in self._changed(rows, COMPONENT, self._deposited_components, self.components):
            self._notes.add(_LOWER_CASE_COMPONENT, self._deposited_components[row])
        for row in self._changed(rows, ATOM_NAME, self._deposited_names, self.names):
            self._notes.add(_LOWER_CASE_NAME, f"{self.residue(row)} {self._deposited_names[row]}")

    def _changed(
        self, rows: list[int], column: FixedText, deposited: list[str], values: list[str]
    ) -> Iterator[int]:
        """Yield the rows whose value is not the deposited one.

        Raises:
            DataError: the column cannot hold a value.
        """
        faults = {value: column.fault(value) for value in {values[row] for row in rows}}
        for row in rows:
            if fault := faults[values[row]]:
                raise self.error(row, f"{self.residue(row)}: {fault}")
            if values[row] != deposited[row].strip(" "):
                yield row

    def _complete(self, name: str, column: Column) -> list[str]:
        for row, value in enumerate(column):
            if value is None:
                raise self.error(row, f"no {name}")
        return [value or "" for value in column]

    def _numbers(
        self, column: Column, name: str, *, limit: float, default: str | None = None
    ) -> NDArray[np.float32]:
        values = self._complete(name, [default if value is None else value for value in column])
        try:
            numbers = np.array(values, dtype=np.float32)
        except (TypeError, ValueError):
            row = next(row for row, value in enumerate(values) if not _is_number(value))
            raise self.error(row, f"{name} {values[row]} is not a number") from None
        if not np.isfinite(numbers).all():
            row = int(np.flatnonzero(~np.isfinite(numbers))[0])
            raise self.error(row, f"{name} {values[row]} is not finite")
        if (np.abs(numbers) > limit).any():
            row = int(np.flatnonzero(np.abs(numbers) > limit)[0])
            raise self.error(row, f"{name} {values[row]} is beyond {limit:g}")
        return numbers

    def _elements(self, column: Column) -> NDArray[np.uint8]:
        number_of = {symbol: _atomic_number(symbol) for symbol in set(column)}
        numbers = [number_of[symbol] for symbol in column]
        for row, number in enumerate(numbers):
            if number is None:
                raise self.error(row, f"type_symbol {column[row]} is not an element")
        return narrowed([number or 0 for number in numbers], np.uint8, "atomic number")


def _atomic_number(symbol: str | None) -> int | None:
    """Return the atomic number of a symbol in any case, None if there is no such element."""
    # Some non-ASCII letters have the symbol of an element as their upper case.
    return ATOMIC_NUMBERS.get(symbol.upper()) if symbol and symbol.isascii() else None


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
