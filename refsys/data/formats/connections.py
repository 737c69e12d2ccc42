"""Reader of covalent connections between residues: the `_struct_conn` category."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refsys.data.formats.cif_tables import CifTables
from refsys.data.formats.notes import NoteKind, Notes
from refsys.data.formats.polymers import keyword
from refsys.data.store.columns import ATOM_NAME, COMPONENT

# Types that are chemical bonds between residues; disulfides and metal coordination are not read.
_COVALENT = frozenset({"covale", "covale_base", "covale_phosphate", "covale_sugar"})
_NOT_READ = frozenset({"disulf", "hydrog", "metalc", "mismat", "modres", "saltbr"})
# Symmetry operations that leave an atom where it is.
_IDENTITY = frozenset({"", "1_555", "1555", "x,y,z"})
_PARTS = (
    "label_seq_id",
    "label_comp_id",
    "auth_seq_id",
    "symmetry",
)

_UNMATCHED = NoteKind("connection matches no atom", "connections match no atom")
_AMBIGUOUS = NoteKind(
    "connection matches atoms of several residues", "connections match atoms of several residues"
)
_UNKNOWN_TYPE = NoteKind(
    "connection is of an unknown type and is left out",
    "connections are of an unknown type and are left out",
)


class ConnectedResidue(NamedTuple):
    """Identifiers of a residue with atoms, by which connections name it.

    Attributes:
        chain: label_asym_id.
        number: label_seq_id.
        author_number: auth_seq_id.
        insertion_code: pdbx_PDB_ins_code.
        component: Its component.
        atoms: Rows of its atoms in the structure.
    """

    chain: str
    number: str | None
    author_number: str | None
    insertion_code: str | None
    component: str
    atoms: range


class _End(NamedTuple):
    """One end of a connection, with its identifiers in the file."""

    chain: str
    number: str | None
    component: str
    atom: str
    author_number: str | None
    insertion_code: str | None

    def __str__(self) -> str:
        author = f"{self.author_number or ''}{self.insertion_code or ''}"
        residue = self.number or author or self.component
        return " ".join(filter(None, (self.chain, residue, self.atom)))


def read_connections(
    tables: CifTables,
    residues: list[ConnectedResidue],
    names: NDArray[np.str_],
    notes: Notes,
) -> NDArray[np.int32]:
    """Return the pairs of atoms that covalent connections join inside the asymmetric unit.

    The residue of an end is found by label_seq_id, or else by auth_seq_id and insertion code. If
    the file has neither, or several residues have them, it is found by its component, provided
    that only one such residue has the atom.

    Args:
        tables: The file.
        residues: Residues with atoms.
        names: [atom] atom names.
        notes: Collects connections that match no atom, or several.

    Returns:
        [bond, 2] int32, atom rows, ascending.

    Raises:
        DataError: the category lacks a column.
    """
    by_chain: dict[str, list[ConnectedResidue]] = {}
    for residue in residues:
        by_chain.setdefault(residue.chain, []).append(residue)
    pairs: set[tuple[int, int]] = set()
    for ends in _covalent(tables, notes):
        matches = [_matches(end, by_chain.get(end.chain, []), names) for end in ends]
        text = " - ".join(map(str, ends))
        if not all(matches):
            notes.add(_UNMATCHED, text)
        elif any(len(rows) > 1 for rows in matches):
            notes.add(_AMBIGUOUS, text)
        elif matches[0] != matches[1]:
            one, two = sorted(rows[0] for rows in matches)
            pairs.add((one, two))
    return np.array(sorted(pairs), dtype=np.int32).reshape(-1, 2)


def _matches(end: _End, residues: list[ConnectedResidue], names: NDArray[np.str_]) -> list[int]:
    """Return the rows of the atoms that match an end."""
    if end.number is not None:
        residues = [residue for residue in residues if residue.number == end.number]
    elif end.author_number is not None:
        residues = [r for r in residues if r.author_number == end.author_number]
        same_code = [r for r in residues if r.insertion_code == end.insertion_code]
        if same_code or end.insertion_code is not None:
            residues = same_code
    elif end.component:
        residues = [r for r in residues if r.component == end.component]
    if len(residues) > 1 and end.component:
        residues = [r for r in residues if r.component == end.component]
    return [row for residue in residues for row in residue.atoms if names[row] == end.atom]


def _covalent(tables: CifTables, notes: Notes) -> Iterator[tuple[_End, _End]]:
    """Yield both ends of each covalent connection inside the asymmetric unit."""
    numbers = (1, 2)
    table = tables.columns(
        "struct_conn",
        [
            "conn_type_id",
            *(f"ptnr{n}_{part}" for n in numbers for part in ("label_asym_id", "label_atom_id")),
        ],
        optional=[
            *(f"ptnr{number}_{part}" for number in numbers for part in _PARTS),
            *(f"pdbx_ptnr{number}_PDB_ins_code" for number in numbers),
        ],
        required=False,
    )
    for row, value in enumerate(table["conn_type_id"]):
        kind = keyword(value)
        values = {name: column[row] for name, column in table.items()}
        one, two = (_end(values, number) for number in numbers)
        if kind not in _COVALENT | _NOT_READ:
            notes.add(_UNKNOWN_TYPE, f"{value}: {one} - {two}")
        symmetry = {keyword(values[f"ptnr{number}_symmetry"]) for number in numbers}
        if kind in _COVALENT and symmetry <= _IDENTITY:
            yield one, two


def _end(values: Mapping[str, str | None], number: int) -> _End:
    def value(part: str) -> str | None:
        return values[f"ptnr{number}_{part}"]

    return _End(
        chain=value("label_asym_id") or "",
        number=value("label_seq_id"),
        component=COMPONENT.normalized(value("label_comp_id") or ""),
        atom=ATOM_NAME.normalized(value("label_atom_id") or ""),
        author_number=value("auth_seq_id"),
        insertion_code=values[f"pdbx_ptnr{number}_PDB_ins_code"],
    )
