"""Chemical components: heavy atoms, bonds and reference coordinates of each.

The definitions come from the Chemical Component Dictionary that biotite ships. The coordinates are
the dictionary's ideal ones, or those of a model where ideal ones are missing, so that they do not
depend on a conformer generator.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refsys.data.store.columns import narrowed
from refsys.data.vocabulary import ATOMIC_NUMBERS

_UNKNOWN = ("?", ".", "")
# Columns that are read. A column is decoded for all components at its first use, and the others, of
# names and synonyms above all, would take as much time and memory again.
_ATOM_COLUMNS = (
    *("comp_id", "atom_id", "type_symbol", "charge", "pdbx_leaving_atom_flag"),
    *(f"pdbx_model_Cartn_{axis}_ideal" for axis in "xyz"),
    *(f"model_Cartn_{axis}" for axis in "xyz"),
)
_BOND_COLUMNS = ("comp_id", "atom_id_1", "atom_id_2", "value_order", "pdbx_aromatic_flag")


@dataclass(frozen=True, slots=True, eq=False)
class Component:
    """The heavy atoms of a chemical component.

    Attributes:
        name: Its code, as in ``ALA``.
        names: Atom names.
        elements: [atom] uint8 atomic numbers.
        charges: [atom] int8 formal charges.
        positions: [atom, 3] float32 reference coordinates, ångström, centred at 0; 0 where there
            are none.
        has_position: [atom] whether the dictionary has coordinates of the atom.
        leaving: [atom] whether the atom leaves when a neighbour is bonded to another component.
        bonds: [bond, 2] int32 indices of bonded atoms.
    """

    name: str
    names: tuple[str, ...]
    elements: NDArray[np.uint8]
    charges: NDArray[np.int8]
    positions: NDArray[np.float32]
    has_position: NDArray[np.bool_]
    leaving: NDArray[np.bool_]
    bonds: NDArray[np.int32]


def dictionary_version() -> str:
    """Return the version of the dictionary: that of the package that ships it."""
    import biotite

    return f"biotite {biotite.__version__}"


@cache
def component(name: str) -> Component | None:
    """Return the definition of a component, None if the dictionary has none."""
    atoms = _rows("chem_comp_atom", name, _ATOM_COLUMNS)
    if atoms is None:
        return None
    symbols = [symbol.upper() for symbol in _text(atoms, "type_symbol")]
    heavy = [row for row, symbol in enumerate(symbols) if symbol not in {"H", "D"}]
    every_name = _text(atoms, "atom_id")
    names = [every_name[row] for row in heavy]
    positions, has_position = _conformer(atoms, heavy)
    charges = [text if text not in _UNKNOWN else "0" for text in _text(atoms, "charge")]
    return Component(
        name=name,
        names=tuple(names),
        elements=narrowed(
            [ATOMIC_NUMBERS.get(symbols[row], 0) for row in heavy], np.uint8, "atomic number"
        ),
        charges=narrowed([int(charges[row]) for row in heavy], np.int8, "formal charge"),
        positions=positions,
        has_position=has_position,
        leaving=np.char.upper(_text(atoms, "pdbx_leaving_atom_flag"))[heavy] == "Y",
        bonds=_bonds(_rows("chem_comp_bond", name, _BOND_COLUMNS), names),
    )


@cache
def component_type(name: str) -> str:
    """Return the dictionary's type of a component, as in ``L-peptide linking``; empty if none."""
    table = _rows("chem_comp", name, ("type",))
    return "" if table is None else _text(table, "type")[0]


def bonded_atoms(name: str) -> Any:
    """Return the atoms of a component with hydrogens and bonds, as biotite's ``AtomArray``.

    Args:
        name: Name of a component that the dictionary defines.

    Returns:
        Atoms with the dictionary's ideal coordinates, ångström, or those of a model where ideal
        ones are missing; None if the dictionary has no bonds of the component.

    Raises:
        ValueError: An atom has no coordinates.
    """
    from biotite.structure.io.pdbx import BinaryCIFBlock, get_component

    bonds = _rows("chem_comp_bond", name, _BOND_COLUMNS)
    if bonds is None:
        return None
    atoms = _rows("chem_comp_atom", name, _ATOM_COLUMNS)
    return get_component(BinaryCIFBlock({"chem_comp_atom": atoms, "chem_comp_bond": bonds}))


def _rows(category: str, name: str, columns: tuple[str, ...]) -> Any:
    """Return columns of a component's rows in a category, None if it has no rows there."""
    from biotite.structure.info import get_from_ccd
    from biotite.structure.io.pdbx import BinaryCIFCategory

    selected = {column: get_from_ccd(category, name, column) for column in columns}
    if any(column is None for column in selected.values()):
        return None
    return BinaryCIFCategory(selected)


def _text(table: Any, column: str) -> list[str]:
    return [str(value) for value in table[column].as_array(str)]


def _conformer(atoms: Any, heavy: list[int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return coordinates and a mask: the model's if they are more complete than the ideal ones."""
    ideal = _coordinates(atoms, "pdbx_model_Cartn_{}_ideal")[heavy]
    model = _coordinates(atoms, "model_Cartn_{}")[heavy]
    missing = np.isnan(ideal).any(axis=1)
    best = model if missing.any() and np.isnan(model).sum() < np.isnan(ideal).sum() else ideal
    has_position = np.asarray(np.isfinite(best).all(axis=1))
    centred = best - best[has_position].mean(axis=0) if has_position.any() else best
    return np.where(has_position[:, None], centred, 0.0).astype(np.float32), has_position


def _coordinates(atoms: Any, pattern: str) -> NDArray[np.float64]:
    columns = [_text(atoms, pattern.format(axis)) for axis in "xyz"]
    rows = [[np.nan if text in _UNKNOWN else float(text) for text in column] for column in columns]
    return np.array(rows, np.float64).T


def _bonds(table: Any, names: list[str]) -> NDArray[np.int32]:
    if table is None:
        return np.empty((0, 2), np.int32)
    row_of = {name: number for number, name in enumerate(names)}
    ends = zip(_text(table, "atom_id_1"), _text(table, "atom_id_2"), strict=True)
    pairs = [(row_of[one], row_of[two]) for one, two in ends if one in row_of and two in row_of]
    return np.array(pairs, np.int32).reshape(-1, 2)
