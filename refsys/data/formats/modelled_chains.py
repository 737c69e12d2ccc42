"""Selection of the chains with heavy atoms, and notes on residues without any."""

from collections.abc import Collection

from refsys.data.formats.atom_site import AtomSite, ResidueKey
from refsys.data.formats.cif_tables import CifTables
from refsys.data.formats.entities import Chain
from refsys.data.formats.notes import NoteKind, Notes

_HYDROGEN = NoteKind(
    "residue has hydrogen or deuterium alone and is left out",
    "residues have hydrogen or deuterium alone and are left out",
)
_LATER_MODEL = NoteKind(
    "residue is in a later model alone and is left out",
    "residues are in later models alone and are left out",
)
_NO_WATER = NoteKind(
    "residue of a water entity is not HOH or DOD and is left out",
    "residues of water entities are not HOH or DOD and are left out",
)


def chains_with_atoms(
    tables: CifTables,
    chains: list[Chain],
    atoms: AtomSite,
    modelled: Collection[ResidueKey],
    notes: Notes,
) -> list[Chain]:
    """Return the chains, without waters, that have heavy atoms in the first model.

    Args:
        tables: Tables of the file.
        chains: Chains of the file.
        atoms: Atoms of the file.
        modelled: Residues with heavy atoms in the first model.
        notes: Collects residues that are left out: non-water residues of water entities, and
            residues of hydrogen or deuterium alone or of later models alone, if they are ligands
            or of a polymer without any other residue.

    Raises:
        DataError: a chain has no atoms at all, or no chain has heavy atoms.
    """
    kind_of = {chain.name: chain.kind for chain in chains}
    with_atoms = {key.chain for key in modelled}
    empty = {
        chain.name for chain in chains if chain.kind != "water" and chain.name not in with_atoms
    }
    listed: set[str] = set()
    unmodelled: dict[ResidueKey, int] = {}
    for row, key in enumerate(atoms.keys):
        listed.add(key.chain)
        if key not in modelled and not atoms.is_water(row):
            unmodelled.setdefault(key, row)
    for key, row in unmodelled.items():
        kind = kind_of[key.chain]
        if kind == "water":
            notes.add(_NO_WATER, atoms.residue(row))
        elif kind == "ligand" or key.chain in empty:
            # A residue of the first model without heavy atoms has hydrogen or deuterium.
            in_first_model = row in atoms.first_model
            notes.add(_HYDROGEN if in_first_model else _LATER_MODEL, atoms.residue(row))
    for chain in chains:
        if chain.name in empty - listed:
            raise tables.error(f"chain {chain.name} has no heavy atoms; is the file truncated?")
    if not with_atoms:
        raise tables.error("nothing but water and hydrogen in the first model")
    return [chain for chain in chains if chain.name in with_atoms]
