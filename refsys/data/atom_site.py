"""The `_atom_site` category: heavy atoms of the first model, checked row by row."""

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from refsys.data.cif_tables import CifTables, Column
from refsys.data.vocabulary import ATOMIC_NUMBERS

_COLUMNS = (
    "type_symbol",
    "label_atom_id",
    "label_alt_id",
    "label_comp_id",
    "label_asym_id",
    "label_entity_id",
    "label_seq_id",
    "auth_seq_id",
    "Cartn_x",
    "Cartn_y",
    "Cartn_z",
)
# Beyond these a value is a mistake: no structure is a micrometre wide.
_LARGEST_COORDINATE = 1e4
_LARGEST_CHARGE = 16.0
_LARGEST_OCCUPANCY = 10.0
_OPTIONAL_COLUMNS = ("occupancy", "pdbx_formal_charge", "pdbx_PDB_model_num")


def residue_key(chain: str, label_seq_id: str | None, auth_seq_id: str | None) -> tuple[str, str]:
    """What tells residues apart: polymers number themselves, the rest has the author's numbers."""
    return chain, label_seq_id or f"auth {auth_seq_id}"


class AtomSite:
    """Columns of `_atom_site`, one entry per row of the file.

    Attributes:
        names: label_atom_id.
        components: label_comp_id.
        keys: The residue of each row, see `residue_key`.
        elements: [row] uint8.
        charges: [row] int8.
        positions: [row, 3] float32, ångström.
        occupancies: [row] float32.
    """

    def __init__(
        self, tables: CifTables, entity_of: Mapping[str, str], waters: Collection[str]
    ) -> None:
        """Reads the category.

        Args:
            tables: The file.
            entity_of: Entity of each chain of the file.
            waters: Chains of water, whose atoms are left out.

        Raises:
            DataError: a value is missing, malformed or contradicts the chains.
        """
        self._tables = tables
        table = tables.columns("atom_site", _COLUMNS, optional=_OPTIONAL_COLUMNS)
        self.names = self._complete("label_atom_id", table["label_atom_id"])
        self.components = self._complete("label_comp_id", table["label_comp_id"])
        charges = self._numbers(
            table["pdbx_formal_charge"], "pdbx_formal_charge", default="0", limit=_LARGEST_CHARGE
        )
        if (fractional := np.flatnonzero(charges != np.round(charges))).size:
            row = int(fractional[0])
            raise self._error(row, f"pdbx_formal_charge {charges[row]} is not whole")
        self.charges = charges.astype(np.int8)
        self.occupancies = self._numbers(
            table["occupancy"], "occupancy", default="1", limit=_LARGEST_OCCUPANCY
        )
        axes = [
            self._numbers(table[f"Cartn_{axis}"], f"Cartn_{axis}", limit=_LARGEST_COORDINATE)
            for axis in "xyz"
        ]
        self.positions = np.stack(axes, axis=-1)
        self.elements = self._elements(table["type_symbol"])
        self._locations = table["label_alt_id"]
        chains = self._complete("label_asym_id", table["label_asym_id"])
        self.keys = [
            residue_key(*key)
            for key in zip(chains, table["label_seq_id"], table["auth_seq_id"], strict=True)
        ]
        models = table["pdbx_PDB_model_num"]
        first = self._first_model(models)
        self._kept = [row for row in first if self.elements[row] != 1 and chains[row] not in waters]
        for row in range(len(chains)):
            if chains[row] not in entity_of:
                raise self._error(row, f"chain {chains[row]} is not in _struct_asym")
            if table["label_entity_id"][row] != entity_of[chains[row]]:
                raise self._error(
                    row,
                    f"label_entity_id {table['label_entity_id'][row]} is not the entity "
                    f"{entity_of[chains[row]]} of chain {chains[row]}",
                )

    def _first_model(self, models: Column) -> range:
        """Rows of the first model: models follow one another, each in one piece."""
        starts = [row for row in range(len(models)) if row == 0 or models[row] != models[row - 1]]
        numbers = [models[row] for row in starts]
        for row, number in zip(starts, numbers, strict=True):
            if numbers.count(number) > 1:
                raise self._error(row, f"pdbx_PDB_model_num {number} stands in several places")
        return range(starts[1] if len(starts) > 1 else len(models))

    def best_locations(self) -> list[int]:
        """Rows to keep: of each residue, the location of highest mean occupancy.

        Residues of several components at one position compete in the same way.

        Raises:
            DataError: a residue has the same atom twice.
        """
        residues: dict[tuple[str, str], list[int]] = {}
        for row in self._kept:
            residues.setdefault(self.keys[row], []).append(row)
        best = [row for rows in residues.values() for row in self._best_location(rows)]
        return sorted(best)

    def _best_location(self, rows: list[int]) -> list[int]:
        locations: dict[str, list[int]] = {}
        for row in rows:
            locations.setdefault(self._locations[row] or "", []).append(row)
        shared = locations.pop("", [])
        if locations:
            mean = {name: float(self.occupancies[own].mean()) for name, own in locations.items()}
            choice = max(sorted(locations), key=mean.__getitem__)
            component = self.components[locations[choice][0]]
            others = {self.components[row] for own in locations.values() for row in own}
            # What all locations share is left out if it is of another one's component.
            shared = [
                row
                for row in shared
                if self.components[row] == component or self.components[row] not in others
            ]
            rows = sorted(shared + locations[choice])
        seen: set[str] = set()
        for row in rows:
            if self.components[row] != self.components[rows[0]]:
                first = self.components[rows[0]]
                raise self._error(row, f"{self.components[row]} in a residue of {first}")
            if self.names[row] in seen:
                raise self._error(row, f"atom {self.names[row]} occurs twice in its residue")
            seen.add(self.names[row])
        return rows

    def _error(self, row: int, reason: str) -> Exception:
        return self._tables.error(f"_atom_site row {row + 1}: {reason}")

    def _complete(self, name: str, column: Column) -> list[str]:
        for row, value in enumerate(column):
            if value is None:
                raise self._error(row, f"no {name}")
        return [value or "" for value in column]

    def _numbers(
        self, column: Column, name: str, *, limit: float, default: str | None = None
    ) -> NDArray[np.float32]:
        values = self._complete(name, [default if value is None else value for value in column])
        try:
            numbers = np.array(values, dtype=np.float32)
        except (TypeError, ValueError):
            row = next(row for row, value in enumerate(values) if not _is_number(value))
            raise self._error(row, f"{name} {values[row]} is not a number") from None
        if not np.isfinite(numbers).all():
            row = int(np.flatnonzero(~np.isfinite(numbers))[0])
            raise self._error(row, f"{name} {values[row]} is not finite")
        if (np.abs(numbers) > limit).any():
            row = int(np.flatnonzero(np.abs(numbers) > limit)[0])
            raise self._error(row, f"{name} {values[row]} is beyond {limit:g}")
        return numbers

    def _elements(self, column: Column) -> NDArray[np.uint8]:
        for row, symbol in enumerate(column):
            if (symbol or "").upper() not in ATOMIC_NUMBERS:
                raise self._error(row, f"type_symbol {symbol} is not an element")
        return np.array([ATOMIC_NUMBERS[(symbol or "").upper()] for symbol in column], np.uint8)


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
