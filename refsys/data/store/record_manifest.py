"""What records hold: every column of every kind, its dtype, its axes and what it says.

Axes in brackets name what is counted; ``+ 1`` is one entry more than there are of these, so that
entry k is where k begins and entry k + 1 where it ends. Places are −1 where there is nothing.
"""

from typing import NamedTuple


class Column(NamedTuple):
    """A column of a record.

    Attributes:
        name: Its name, and its file's: ``<name>.npy``.
        dtype: As NumPy has it.
        axes: What it has an entry for.
        says: What is in it.
    """

    name: str
    dtype: str
    axes: tuple[str, ...]
    says: str


_STRUCTURE = (
    Column("atom_charge", "int8", ("atom",), "formal charge"),
    Column("atom_conformer", "int32", ("atom",), "its row in `conformer_position`"),
    Column("atom_element", "uint8", ("atom",), "atomic number"),
    Column("atom_name", "S4", ("atom",), "its name in its component"),
    Column("atom_position", "float32", ("atom", "xyz"), "ångström; 0 where it is not resolved"),
    Column("atom_reference_known", "bool", ("atom",), "whether the conformers have it"),
    Column("atom_resolved", "bool", ("atom",), "whether it was modelled, with some occupancy"),
    Column("atom_token", "int32", ("atom",), "its token"),
    Column("bond_atoms", "int32", ("bond", "end"), "atoms of different tokens that are bonded"),
    Column("chain_first_token", "int32", ("chain + 1",), "where its tokens begin"),
    Column(
        "conformer_position",
        "float32",
        ("conformer", "row", "xyz"),
        "reference conformers of each kind of residue, end to end, ångström",
    ),
    Column("grid_cell", "int64", ("modelled token",), "its cell of 8 Å, ascending"),
    Column("grid_origin", "float32", ("xyz",), "the corner of cell 0"),
    Column(
        "grid_position", "float32", ("modelled token", "xyz"), "its centre, in the order of cells"
    ),
    Column("grid_token", "int32", ("modelled token",), "its number, in the order of cells"),
    Column("interface_chains", "int32", ("interface", "end"), "chains with atoms within 5 Å"),
    Column("interface_first", "int32", ("interface + 1",), "where its tokens begin"),
    Column(
        "interface_token",
        "int32",
        ("interface token",),
        "tokens of each interface whose centres are within 15 Å of the other chain's",
    ),
    Column("modelled_token", "int32", ("modelled token",), "tokens whose centre was modelled"),
    Column("residue_chain", "int32", ("residue",), "its chain"),
    Column("residue_component", "S5", ("residue",), "its chemical component"),
    Column("residue_first_atom", "int32", ("residue + 1",), "where its atoms begin"),
    Column("residue_number", "int32", ("residue",), "its number in its chain, from 1"),
    Column("residue_symmetry", "int32", ("residue",), "its table of exchangeable atoms"),
    Column("symmetry_places", "uint16", ("place",), "tables of permutations, end to end"),
    Column("symmetry_sizes", "int32", ("table", "end"), "permutations, and atoms, of each table"),
    Column("token_center", "int32", ("token",), "its centre atom"),
    Column("token_chain", "int32", ("token",), "its chain"),
    Column(
        "token_element", "uint8", ("token",), "atomic number of a token that is an atom, else 0"
    ),
    Column("token_entity", "int32", ("token",), "its chain's distinct molecule"),
    Column("token_first_atom", "int32", ("token + 1",), "where its atoms begin"),
    Column("token_frame", "int32", ("token", "corner"), "the three atoms of its frame"),
    Column("token_interface", "bool", ("token",), "whether another chain is within 15 Å"),
    Column("token_molecule", "uint8", ("token",), "protein, RNA, DNA or ligand"),
    Column("token_representative", "int32", ("token",), "the atom that distances are told by"),
    Column("token_residue", "int32", ("token",), "its residue"),
    Column("token_residue_index", "int32", ("token",), "its residue's number in its chain"),
    Column("token_residue_type", "uint8", ("token",), "residue class"),
    Column("token_symmetry", "int32", ("token",), "its chain's number among copies of its entity"),
)
_ALIGNMENT = (
    Column("codes", "uint8", ("row", "residue"), "residue class or gap; row 0 is the query"),
    Column("deletion_mean", "float32", ("residue",), "mean deletions before it"),
    Column("deletions", "uint8", ("row", "residue"), "deletions before it, 255 at most"),
    Column(
        "further_species", "int32", ("occurrence", "end"), "rows, and species that have them too"
    ),
    Column("profile", "float32", ("residue", "class"), "frequencies"),
    Column("species", "int32", ("row",), "number of its species"),
)
_PAIRING = (Column("rows", "int32", ("paired row", "alignment"), "rows that are of one species"),)
_TEMPLATES = (
    Column("backbone", "float32", ("template", "residue", "corner", "xyz"), "N, Cα, C, ångström"),
    Column("backbone_mask", "bool", ("template", "residue"), "whether all three were modelled"),
    Column("pseudo_beta", "float32", ("template", "residue", "xyz"), "ångström"),
    Column("pseudo_beta_mask", "bool", ("template", "residue"), "whether it was modelled"),
    Column("residue_type", "uint8", ("template", "residue"), "residue class, or gap"),
)
_HITS = (
    Column("aligned", "int32", ("hit",), "residues that stand beside one another"),
    Column("identical", "int32", ("hit",), "residues that are the same"),
    Column("query", "int32", ("hit",), "number of a sequence of the store"),
    Column("target", "int32", ("hit",), "number of what it found, the best first"),
)

# Columns by the kind of the record.
RECORDS: dict[str, tuple[Column, ...]] = {
    "structure": _STRUCTURE,
    "alignment": _ALIGNMENT,
    "pairing": _PAIRING,
    "templates": _TEMPLATES,
    "hits": _HITS,
}
