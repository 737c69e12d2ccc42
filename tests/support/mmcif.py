"""A small mmCIF file, composed of parts that tests replace."""

HEADER = "data_TEST\n#\n"
ENTITY = """loop_
_entity.id
_entity.type
1 polymer
2 non-polymer
3 water
#
"""
ENTITY_POLY = """_entity_poly.entity_id 1
_entity_poly.type 'polypeptide(L)'
#
"""
SEQUENCE = """loop_
_entity_poly_seq.entity_id
_entity_poly_seq.num
_entity_poly_seq.mon_id
1 1 MET
1 2 GLY
1 3 MSE
1 4 ALA
#
"""
CHAINS = """loop_
_struct_asym.id
_struct_asym.entity_id
A 1
B 2
C 3
#
"""
ATOM_COLUMNS = (
    *("group_PDB", "id", "type_symbol", "label_atom_id", "label_alt_id", "label_comp_id"),
    *("label_asym_id", "label_entity_id", "label_seq_id", "auth_seq_id"),
    *("Cartn_x", "Cartn_y", "Cartn_z", "occupancy", "pdbx_formal_charge", "pdbx_PDB_model_num"),
)
ATOM_ROWS = (
    "ATOM   1  N  N   . MET A 1 1 1   0.0 0.0 0.0 1.0 ? 1",
    "ATOM   2  C  CA  . MET A 1 1 1   1.5 0.0 0.0 1.0 ? 1",
    "ATOM   3  C  CB  A MET A 1 1 1   2.0 1.0 0.0 0.4 ? 1",
    "ATOM   4  C  CB  B MET A 1 1 1   2.0 1.5 0.0 0.6 ? 1",
    "ATOM   5  H  HA  . MET A 1 1 1   1.5 0.0 1.0 1.0 ? 1",
    "ATOM   6  C  CA  . GLY A 1 2 2   5.0 0.0 0.0 1.0 ? 1",
    "HETATM 7  C  CA  . MSE A 1 3 3   8.5 0.0 0.0 1.0 ? 1",
    "HETATM 8  SE SE  . MSE A 1 3 3   8.5 3.0 0.0 1.0 ? 1",
    "HETATM 9  ZN ZN  . ZN  B 2 . 101 4.0 4.0 4.0 1.0 2 1",
    "HETATM 10 O  O   . HOH C 3 . 201 9.0 9.0 9.0 1.0 ? 1",
    "ATOM   11 C  CA  . MET A 1 1 1   7.0 7.0 7.0 1.0 ? 2",
)
BONDS = """loop_
_chem_comp_bond.comp_id
_chem_comp_bond.atom_id_1
_chem_comp_bond.atom_id_2
MSE CA SE
MET N CA
MET CA CB
#
"""
CONNECTIONS = """loop_
_struct_conn.id
_struct_conn.conn_type_id
_struct_conn.ptnr1_label_asym_id
_struct_conn.ptnr1_label_seq_id
_struct_conn.ptnr1_label_atom_id
_struct_conn.ptnr1_symmetry
_struct_conn.ptnr2_label_asym_id
_struct_conn.ptnr2_label_seq_id
_struct_conn.ptnr2_label_atom_id
_struct_conn.ptnr2_auth_seq_id
_struct_conn.ptnr2_symmetry
c1 covale A 3 SE 1_555 B ? ZN 101 1_555
c2 metalc A 1 N  1_555 B ? ZN 101 1_555
c3 covale A 1 N  1_555 B ? ZN 101 2_655
#
"""


def mmcif(
    header=HEADER,
    entity=ENTITY,
    entity_poly=ENTITY_POLY,
    sequence=SEQUENCE,
    chains=CHAINS,
    atoms=ATOM_ROWS,
    bonds=BONDS,
    connections=CONNECTIONS,
    atom_columns=ATOM_COLUMNS,
):
    """Return the text of a file; `atoms` are rows of `atom_columns`."""
    columns = "".join(f"_atom_site.{name}\n" for name in atom_columns)
    table = f"loop_\n{columns}" + "\n".join(atoms) + "\n#\n" if atoms else ""
    return "".join((header, entity, entity_poly, sequence, chains, table, bonds, connections))
