"""Structure record: its columns, and facts on the file, its names and its chains."""

from pathlib import Path

from refsys.data.formats.mmcif import read_structure
from refsys.data.prepare.assembly import assembled
from refsys.data.prepare.chemistry_notes import chemistry_notes
from refsys.data.prepare.standardization import standardized
from refsys.data.prepare.tokens import (
    chain_alternatives,
    chain_contents,
    chain_sequence,
    dropped_atoms,
    residues_of_chains,
    structure_columns,
)
from refsys.data.store.entry_name import check_entry, file_entry, is_entry_name
from refsys.data.store.store import Record
from refsys.errors import DataError


def structure_record(
    path: Path, assembly: str | None, name: str | None, *, as_deposited: bool
) -> Record:
    """Read a structure and return the columns and facts of its record.

    Args:
        path: An mmCIF or BinaryCIF file.
        assembly: Name of a biological assembly; the asymmetric unit if None.
        name: Name of the entry, without its assembly. None uses that of the data block, or that of
            the file if the block's cannot name an entry.
        as_deposited: Whether to keep selenomethionine and the names of arginine's nitrogens.

    Raises:
        DataError: the file cannot be used, or has no such assembly.
    """
    structure = read_structure(path)
    changes = None if as_deposited else standardized(structure)
    structure = changes.structure if changes else structure
    block = structure.entry
    if name is None:
        name = block.lower() if is_entry_name(block.lower()) else file_entry(path)
    if assembly is not None:
        structure = assembled(structure, path, assembly)
        name = f"{name}-assembly{assembly}"
    entry = check_entry(path, name)
    columns = structure_columns(structure)
    if not len(columns["token_residue_type"]):
        raise DataError(f"{path}: no tokens")
    chains = [
        {
            "name": chain.name,
            "entity": chain.entity,
            "kind": chain.kind,
            "polymer": chain.polymer,
            "contents": chain_contents(chain.kind, residues),
            "sequence": chain_sequence(residues) if chain.kind == "protein" else "",
            "alternatives": chain_alternatives(residues) if chain.kind == "protein" else {},
        }
        for chain, residues in zip(structure.chains, residues_of_chains(structure), strict=True)
    ]
    return columns, {
        "entry": entry,
        "block": block,
        "entry_id": structure.entry_id,
        "notes": [*structure.notes, *chemistry_notes(structure, columns)],
        "assembly": assembly,
        "as_deposited": as_deposited,
        "selenomethionines": changes.selenomethionines if changes else 0,
        "reordered_arginines": changes.arginines if changes else 0,
        "chains": chains,
        "resolution": structure.resolution,
        "released": structure.released,
        "dropped_atoms": dropped_atoms(structure, columns),
    }
