"""Connections between residues: matching by identifiers, and notes on unmatched ones."""

import pytest
from support import mmcif as part
from support.mmcif import mmcif

from refsys.data.formats.mmcif import read_structure
from refsys.data.prepare.chemistry_notes import chemistry_notes
from refsys.data.prepare.tokens import structure_columns

COLUMNS = (*part.ATOM_COLUMNS[:10], "pdbx_PDB_ins_code", *part.ATOM_COLUMNS[10:])


def atom(component, name, number, code="?", x=9.0):
    """Return a row of an atom of chain B."""
    return f"HETATM 9 C {name} . {component} B 2 . {number} {code} {x} 0.0 0.0 1.0 ? 1"


def rows(*ligands):
    """Return mmCIF text with the protein and these atoms."""
    protein = []
    for row in part.ATOM_ROWS[:8]:
        fields = row.split()
        protein.append(" ".join([*fields[:10], "?", *fields[10:]]))
    return [*protein, *ligands]


def connection(**values):
    """Return a connection of SE in residue 3 of chain A to an atom of chain B."""
    first = {"label_asym_id": "A", "label_seq_id": "3", "label_atom_id": "SE"}
    items = {"conn_type_id": values.pop("kind", "covale")}
    items |= {f"ptnr1_{name}": value for name, value in first.items()}
    second = {"label_asym_id": "B"} | values
    for name, value in second.items():
        items[f"pdbx_ptnr2_{name}" if name == "PDB_ins_code" else f"ptnr2_{name}"] = value
    return "".join(f"_struct_conn.{name} {value}\n" for name, value in items.items()) + "#\n"


@pytest.fixture
def read(tmp_path):
    def read(connections, *ligands):
        path = tmp_path / "x.cif"
        path.write_text(
            mmcif(atoms=rows(*ligands), atom_columns=COLUMNS, connections=connections),
            encoding="utf-8",
        )
        return read_structure(path)

    return read


NAG, FUC = atom("NAG", "C1", 1), atom("FUC", "C1", 2)


@pytest.mark.parametrize(
    ("ligands", "end", "row"),
    {
        "by the author's number": ((NAG, FUC), {"auth_seq_id": "2"}, 7),
        "by the insertion code": (
            (atom("NAG", "C1", 1, "A"), atom("NAG", "C1", 1, "B")),
            {"auth_seq_id": "1", "PDB_ins_code": "B"},
            7,
        ),
        "without an insertion code": (
            (atom("NAG", "C1", 1), atom("NAG", "C1", 1, "B")),
            {"auth_seq_id": "1", "PDB_ins_code": "?"},
            6,
        ),
        "by the component": ((NAG, FUC), {"label_comp_id": "fuc"}, 7),
        "by the component, the number unknown": (
            (NAG, FUC),
            {"label_comp_id": "FUC", "label_seq_id": ".", "auth_seq_id": "?"},
            7,
        ),
        "by the only atom of the name": ((NAG, atom("NAG", "C2", 2)), {}, 6),
    }.values(),
)
def test_connection_matches_the_residue_of_its_identifiers(read, ligands, end, row):
    structure = read(connection(label_atom_id="c1", **end), *ligands)
    assert structure.connections.tolist() == [[5, row]]
    assert not structure.notes


@pytest.mark.parametrize(
    ("ligands", "end", "note"),
    {
        "an atom": (
            (NAG,),
            {"auth_seq_id": "1", "label_atom_id": "C9"},
            "1 connection matches no atom, first: A 3 SE - B 1 C9",
        ),
        "a chain": (
            (NAG,),
            {"label_asym_id": "Q", "auth_seq_id": "1"},
            "1 connection matches no atom, first: A 3 SE - Q 1 C1",
        ),
        "a number": (
            (NAG,),
            {"auth_seq_id": "7", "label_comp_id": "NAG"},
            "1 connection matches no atom, first: A 3 SE - B 7 C1",
        ),
        "a component": (
            (NAG,),
            {"label_comp_id": "FUC"},
            "1 connection matches no atom, first: A 3 SE - B FUC C1",
        ),
        "one of several residues": (
            (NAG, atom("NAG", "C1", 2)),
            {"label_comp_id": "NAG"},
            "1 connection matches atoms of several residues, first: A 3 SE - B NAG C1",
        ),
        "a type": (
            (NAG,),
            {"kind": "bond", "auth_seq_id": "1"},
            "1 connection is of an unknown type and is left out, first: bond: A 3 SE - B 1 C1",
        ),
    }.values(),
)
def test_connection_without_a_match_is_noted(read, ligands, end, note):
    structure = read(connection(**{"label_atom_id": "C1"} | end), *ligands)
    assert not len(structure.connections)
    assert structure.notes == (note,)


@pytest.mark.parametrize("kind", ["COVALE", "Covale_Base", "'covale'"])
def test_connection_type_is_compared_without_case(read, kind):
    structure = read(connection(kind=kind, label_atom_id="C1", auth_seq_id="1"), NAG)
    assert structure.connections.tolist() == [[5, 6]]


@pytest.mark.parametrize("kind", ["metalc", "DISULF", "hydrog"])
def test_connection_that_is_not_covalent_is_left_out_without_a_note(read, kind):
    structure = read(connection(kind=kind, label_atom_id="C1", auth_seq_id="1"), NAG)
    assert not len(structure.connections)
    assert not structure.notes


@pytest.mark.parametrize(
    ("symmetry", "count"), [("1_555", 1), ("1555", 1), ("X,Y,Z", 1), ("?", 1), ("2_655", 0)]
)
def test_connection_to_another_copy_is_left_out(read, symmetry, count):
    end = {"label_atom_id": "C1", "auth_seq_id": "1", "symmetry": symmetry}
    structure = read(connection(**end), NAG)
    assert len(structure.connections) == count
    assert not structure.notes


def test_connection_that_is_too_long_for_a_bond_is_noted(read):
    distant, near = (atom("NAG", "C1", 1, x=x) for x in (99.0, 8.5))
    text = connection(label_atom_id="C1", auth_seq_id="1")
    structure = read(text, distant)
    assert chemistry_notes(structure, structure_columns(structure)) == (
        "1 connection is too long for a bond, or of an atom that is left out, "
        "first: A 3 MSE SE - B 1 NAG C1",
    )
    structure = read(text, near.replace("8.5 0.0", "8.5 2.0"))
    assert not chemistry_notes(structure, structure_columns(structure))


def test_ligands_that_differ_in_the_insertion_code_are_residues_of_their_own(read):
    structure = read("", *(atom("NAG", "C1", 1, code) for code in "?AB"))
    assert [(r.component, len(r.atoms)) for r in structure.residues[4:]] == [("NAG", 1)] * 3
