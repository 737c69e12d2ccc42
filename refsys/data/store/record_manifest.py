"""Manifest of records: every column of every kind, with its dtype, its axes and its meaning.

An axis is named by the items that it counts; with ``+ 1`` it has one entry more, so that item k
begins at entry k and ends at entry k + 1. An index is −1 where there is no item.
"""

from typing import NamedTuple


class Column(NamedTuple):
    """A column of a record.

    Attributes:
        name: Name of the column, stored in ``<name>.npy``.
        dtype: NumPy dtype.
        axes: Items that each axis counts.
        meaning: Content of the column.
    """

    name: str
    dtype: str
    axes: tuple[str, ...]
    meaning: str


_STRUCTURE = (
    Column("atom_charge", "int8", ("atom",), "formal charge"),
    Column("atom_conformer", "int32", ("atom",), "row in `conformer_position`"),
    Column("atom_element", "uint8", ("atom",), "atomic number"),
    Column("atom_name", "S4", ("atom",), "name in its component"),
    Column("atom_position", "float32", ("atom", "xyz"), "ångström; 0 where not resolved"),
    Column("atom_reference_known", "bool", ("atom",), "whether the conformers have the atom"),
    Column("atom_resolved", "bool", ("atom",), "whether it was modelled with an occupancy above 0"),
    Column("atom_token", "int32", ("atom",), "token"),
    Column("bond_atoms", "int32", ("bond", "end"), "bonded atoms of different tokens"),
    Column("chain_first_token", "int32", ("chain + 1",), "first token"),
    Column(
        "conformer_position",
        "float32",
        ("conformer", "row", "xyz"),
        "reference conformers of each layout of a residue, concatenated, ångström",
    ),
    Column("grid_cell", "int64", ("modelled token",), "number of its cell of 8 Å, ascending"),
    Column("grid_origin", "float32", ("xyz",), "corner of cell 0, ångström"),
    Column(
        "grid_position",
        "float32",
        ("modelled token", "xyz"),
        "centre position in the order of cells, ångström",
    ),
    Column("grid_token", "int32", ("modelled token",), "token number in the order of cells"),
    Column("interface_chains", "int32", ("interface", "end"), "chains with atoms within 5 Å"),
    Column("interface_first", "int32", ("interface + 1",), "first row in `interface_token`"),
    Column(
        "interface_token",
        "int32",
        ("interface token",),
        "tokens of each interface whose centres are within 15 Å of the other chain's",
    ),
    Column("modelled_token", "int32", ("modelled token",), "tokens whose centre was modelled"),
    Column("residue_chain", "int32", ("residue",), "chain"),
    Column("residue_component", "S5", ("residue",), "chemical component"),
    Column("residue_first_atom", "int32", ("residue + 1",), "first atom"),
    Column("residue_number", "int32", ("residue",), "number in its chain, from 1"),
    Column(
        "residue_symmetry",
        "int32",
        ("residue",),
        "number of its table of automorphisms, −1 for none",
    ),
    Column("symmetry_places", "uint16", ("place",), "tables of permutations, concatenated"),
    Column(
        "symmetry_sizes", "int32", ("table", "end"), "number of permutations and number of atoms"
    ),
    Column("token_center", "int32", ("token",), "centre atom"),
    Column("token_chain", "int32", ("token",), "chain"),
    Column("token_element", "uint8", ("token",), "atomic number of an atom token, else 0"),
    Column("token_entity", "int32", ("token",), "entity (distinct molecule) of its chain"),
    Column("token_first_atom", "int32", ("token + 1",), "first atom"),
    Column("token_frame", "int32", ("token", "corner"), "three atoms of its frame"),
    Column("token_interface", "bool", ("token",), "whether another chain is within 15 Å"),
    Column("token_molecule", "uint8", ("token",), "protein, RNA, DNA or ligand"),
    Column("token_representative", "int32", ("token",), "representative atom, for distances"),
    Column("token_residue", "int32", ("token",), "residue"),
    Column("token_residue_index", "int32", ("token",), "number of its residue in the chain"),
    Column("token_residue_type", "uint8", ("token",), "residue class"),
    Column(
        "token_symmetry", "int32", ("token",), "number of its chain among the copies of the entity"
    ),
)
_ALIGNMENT = (
    Column("codes", "uint8", ("row", "residue"), "residue class or gap; row 0 is the query"),
    Column("deletion_mean", "float32", ("residue",), "mean number of deletions before it"),
    Column("deletions", "uint8", ("row", "residue"), "number of deletions before it, 255 at most"),
    Column(
        "further_species",
        "int32",
        ("occurrence", "end"),
        "row, and a further species with the same row",
    ),
    Column("profile", "float32", ("residue", "class"), "frequency of each class"),
    Column("species", "int32", ("row",), "number of its species, −1 if unknown"),
)
_PAIRING = (
    Column("rows", "int32", ("paired row", "alignment"), "rows of one species, −1 for none"),
)
_TEMPLATES = (
    Column(
        "backbone",
        "float32",
        ("template", "residue", "corner", "xyz"),
        "positions of N, Cα and C, ångström",
    ),
    Column("backbone_mask", "bool", ("template", "residue"), "whether all three were modelled"),
    Column("pseudo_beta", "float32", ("template", "residue", "xyz"), "position, ångström"),
    Column("pseudo_beta_mask", "bool", ("template", "residue"), "whether it was modelled"),
    Column("residue_type", "uint8", ("template", "residue"), "residue class, or gap"),
)
_HITS = (
    Column("aligned", "int32", ("hit",), "number of aligned residues"),
    Column("identical", "int32", ("hit",), "number of identical residues"),
    Column("query", "int32", ("hit",), "number of the query among the sequences of the store"),
    Column("target", "int32", ("hit",), "number of the matching sequence, best first"),
)

# Columns by the kind of the record.
RECORDS: dict[str, tuple[Column, ...]] = {
    "structure": _STRUCTURE,
    "alignment": _ALIGNMENT,
    "pairing": _PAIRING,
    "templates": _TEMPLATES,
    "hits": _HITS,
}
