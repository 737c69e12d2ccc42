"""Biological assemblies: copies of the asymmetric unit's chains, moved by the file's operators."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refsys.data.formats.cif_tables import CifTables
from refsys.data.formats.entities import Chain
from refsys.data.formats.mmcif import Residue, Structure

# Largest assembly that is accepted as an entry.
_MOST_ATOMS = 4_000_000
# Larger coordinates are mistakes, ångström.
_LARGEST_COORDINATE = 1e5


def assembled(structure: Structure, path: Path, name: str) -> Structure:
    """Return a biological assembly of a structure.

    The first copy of a chain keeps its name; others are numbered, as in ``A-2``, skipping names
    that the file has. A bond between residues is copied where one operator moves both its ends.

    Args:
        structure: The asymmetric unit of the file.
        path: The file.
        name: Identifier in `_pdbx_struct_assembly`, as in ``1``.

    Raises:
        DataError: the file has no such assembly, or the assembly has none of the chains, has too
            many atoms, or moves one too far.
    """
    tables = CifTables(path)
    number = {chain.name: index for index, chain in enumerate(structure.chains)}
    copies = [
        (number[chain], operator, matrix, shift)
        for chain, operator, matrix, shift in _copies(tables, name)
        if chain in number
    ]
    if not copies:
        raise tables.error(f"assembly {name} has none of the chains")
    atoms_of = _rows_of_chains(structure)
    total = sum(len(atoms_of[chain]) for chain, *_ in copies)
    if total > _MOST_ATOMS:
        raise tables.error(f"assembly {name} has {total} atoms; {_MOST_ATOMS} at most")
    residues_of: dict[int, list[Residue]] = {}
    for residue in structure.residues:
        residues_of.setdefault(residue.chain, []).append(residue)

    chains: list[Chain] = []
    residues: list[Residue] = []
    rows: list[NDArray[np.int64]] = []
    positions: list[NDArray[np.float32]] = []
    first_row: dict[tuple[int, bytes], int] = {}
    copy_numbers: dict[int, Iterator[int]] = {}
    next_row = 0
    for chain, operator, matrix, shift in copies:
        source, chain_rows = structure.chains[chain], atoms_of[chain]
        numbers = copy_numbers.setdefault(chain, count(1))
        copy = next(numbers)
        while copy > 1 and f"{source.name}-{copy}" in number:
            copy = next(numbers)
        first_row[chain, operator] = next_row
        offset = next_row - (int(chain_rows[0]) if len(chain_rows) else 0)
        for residue in residues_of.get(chain, []):
            atoms = range(residue.atoms.start + offset, residue.atoms.stop + offset)
            residues.append(replace(residue, chain=len(chains), atoms=atoms))
        chains.append(replace(source, name=source.name if copy == 1 else f"{source.name}-{copy}"))
        rows.append(chain_rows)
        transformed = structure.positions[chain_rows].astype(np.float64) @ matrix.T + shift
        if not (np.abs(transformed) <= _LARGEST_COORDINATE).all():
            raise tables.error(
                f"assembly {name} moves atoms of chain {source.name} beyond "
                f"{_LARGEST_COORDINATE:g} Å"
            )
        positions.append(transformed.astype(np.float32))
        next_row += len(chain_rows)
    order = np.concatenate(rows)
    return replace(
        structure,
        chains=tuple(chains),
        residues=tuple(residues),
        names=structure.names[order],
        elements=structure.elements[order],
        charges=structure.charges[order],
        positions=np.concatenate(positions),
        resolved=structure.resolved[order],
        connections=_connections(structure, atoms_of, first_row),
    )


def _rows_of_chains(structure: Structure) -> list[NDArray[np.int64]]:
    """Return the atom rows of each chain; they are contiguous."""
    rows: list[list[int]] = [[] for _ in structure.chains]
    for residue in structure.residues:
        rows[residue.chain].extend(residue.atoms)
    return [np.array(chain_rows, np.int64) for chain_rows in rows]


def _copies(
    tables: CifTables, name: str
) -> Iterator[tuple[str, bytes, NDArray[np.float64], NDArray[np.float64]]]:
    """Yield (chain, operator, rotation, translation) of each copy, in the file's order.

    Equal motions are one operator, whichever generator has them.
    """
    import gemmi

    try:
        assemblies = {a.name: a for a in gemmi.make_structure_from_block(tables.block).assemblies}
    except Exception as error:  # gemmi raises several unrelated classes
        raise tables.error(f"assemblies cannot be read: {' '.join(str(error).split())}") from None
    if name not in assemblies:
        have = ", ".join(assemblies) or "none"
        raise tables.error(f"no assembly {name}; the file has {have}")
    for generator in assemblies[name].generators:
        for operator in generator.operators:
            matrix = np.array(operator.transform.mat.tolist())
            shift = np.array(operator.transform.vec.tolist())
            for chain in generator.subchains:
                yield chain, matrix.tobytes() + shift.tobytes(), matrix, shift


def _connections(
    structure: Structure,
    atoms_of: list[NDArray[np.int64]],
    first_row: dict[tuple[int, bytes], int],
) -> NDArray[np.int32]:
    """Return the bonds [bond, 2] of the copies, where one operator moves both ends."""
    chain_of = np.empty(len(structure.names), np.int64)
    for chain, chain_rows in enumerate(atoms_of):
        chain_of[chain_rows] = chain
    operators = dict.fromkeys(operator for _, operator in first_row)
    bonds = []
    for one, two in structure.connections:
        ends = [(int(chain_of[row]), row - atoms_of[chain_of[row]][0]) for row in (one, two)]
        for operator in operators:
            if all((chain, operator) in first_row for chain, _ in ends):
                bonds.append([first_row[chain, operator] + offset for chain, offset in ends])
    return np.array(sorted(bonds), np.int32).reshape(-1, 2)
