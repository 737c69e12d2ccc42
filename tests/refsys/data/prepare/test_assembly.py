"""Biological assemblies: their chains, positions and bonds."""

import numpy as np
import pytest
from support import mmcif as part
from support.mmcif import mmcif

from refsys.data.formats.mmcif import read_structure
from refsys.data.prepare import assembly
from refsys.data.prepare.assembly import assembled
from refsys.data.prepare.entries import Sources, prepare
from refsys.data.store.store import Store
from refsys.errors import DataError

# A quarter turn about z, and a shift.
TURN = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
SHIFT = np.array([10.0, 0.0, 5.0])
DETAILS = ("details", "method_details", "oligomeric_details", "oligomeric_count")


def table(category, *rows):
    names = list(rows[0])
    lines = [" ".join(str(row[name]) for name in names) for row in rows]
    return "\n".join(["loop_", *(f"_{category}.{name}" for name in names), *lines, "#\n"])


def operator(name, matrix, shift):
    row = {"id": name, "type": "x"}
    for i in range(3):
        row |= {f"matrix[{i + 1}][{j + 1}]": matrix[i, j] for j in range(3)}
        row |= {f"vector[{i + 1}]": shift[i]}
    return row


OPERATORS = table(
    "pdbx_struct_oper_list",
    operator("1", np.eye(3), np.zeros(3)),
    operator("2", TURN, SHIFT),
)


def assemblies(**generators):
    """Return the categories of assemblies, given (operators, chains) of each generator by name."""
    details = dict.fromkeys(DETAILS, "?")
    listed = [{"id": name.lstrip("_")} | details for name in generators]
    rows = [
        {"assembly_id": name.lstrip("_"), "oper_expression": which, "asym_id_list": chains}
        for name, generators_of_name in generators.items()
        for which, chains in generators_of_name
    ]
    return (
        table("pdbx_struct_assembly", *listed)
        + table("pdbx_struct_assembly_gen", *rows)
        + OPERATORS
    )


@pytest.fixture
def build(tmp_path):
    def build(name="1", atoms=part.ATOM_ROWS, **generators):
        path = tmp_path / "x.cif"
        path.write_text(mmcif(atoms=atoms) + assemblies(**generators), encoding="utf-8")
        structure = read_structure(path)
        return structure, assembled(structure, path, name)

    return build


def chain_rows(structure, number):
    parts = [residue.atoms for residue in structure.residues if residue.chain == number]
    return [row for atoms in parts for row in atoms]


def test_identity_assembly_is_the_asymmetric_unit(build):
    structure, built = build(_1=[("1", "A,B,C")])
    assert built.chains == structure.chains
    assert built.residues == structure.residues
    assert (built.positions == structure.positions).all()
    assert (built.connections == structure.connections).all()


def test_copies_are_chains_moved_by_the_operators(build):
    structure, built = build(_1=[("1,2", "A,B,C")])
    assert [chain.name for chain in built.chains] == ["A", "B", "A-2", "B-2"]
    assert [chain.entity for chain in built.chains] == ["1", "2", "1", "2"]
    for number in range(4):
        copied, original = chain_rows(built, number), chain_rows(structure, number % 2)
        for column in ("names", "elements", "charges"):
            assert (getattr(built, column)[copied] == getattr(structure, column)[original]).all()
        expected = structure.positions[original]
        if number > 1:
            expected = np.array([TURN @ position + SHIFT for position in expected.tolist()])
        assert built.positions[copied] == pytest.approx(expected, abs=1e-5)
    assert [r.component for r in built.residues] == 2 * [r.component for r in structure.residues]
    rows = [row for residue in built.residues for row in residue.atoms]
    assert rows == list(range(len(built.names)))


def test_bonds_are_copied_when_one_operator_moves_both_ends(build):
    _, built = build(_1=[("1,2", "A,B")])
    assert built.names[built.connections].tolist() == [["SE", "ZN"]] * 2
    first, second = built.connections.tolist()
    assert [row + len(built.names) // 2 for row in first] == second
    # A zinc and a protein that different operators move are not bonded.
    _, apart = build(_1=[("1", "A"), ("2", "B")])
    assert not len(apart.connections)


def test_equal_motions_of_generators_are_one_operator(build):
    _, built = build(_1=[("2", "A"), ("2", "B")])
    assert len(built.connections) == 1
    assert [chain.name for chain in built.chains] == ["A", "B"]


def test_names_of_copies_skip_names_in_the_file(tmp_path):
    path = tmp_path / "x.cif"
    text = mmcif(
        chains=part.CHAINS.replace("B 2", "A-2 2"),
        atoms=[row.replace(" B 2 ", " A-2 2 ") for row in part.ATOM_ROWS],
        connections="",
    )
    path.write_text(text + assemblies(_1=[("1,2", "A,A-2")]), encoding="utf-8")
    names = [chain.name for chain in assembled(read_structure(path), path, "1").chains]
    assert names == ["A", "A-2", "A-3", "A-2-2"]


@pytest.mark.parametrize("value", ["1e30", "nan", "2e5"])
def test_operator_beyond_the_coordinate_limit_is_refused(tmp_path, value):
    path = tmp_path / "x.cif"
    path.write_text(
        mmcif() + assemblies(_1=[("2", "A,B")]).replace("10.0", value), encoding="utf-8"
    )
    with pytest.raises(DataError, match=r"x\.cif: assembly 1 moves atoms of chain A beyond"):
        assembled(read_structure(path), path, "1")


@pytest.mark.parametrize(
    ("name", "generators", "message"),
    [
        ("2", {"_1": [("1", "A")]}, "no assembly 2; the file has 1"),
        ("1", {"_1": [("1", "C")]}, "assembly 1 has none of the chains"),
    ],
)
def test_unusable_assembly_is_refused_in_one_line(build, name, generators, message):
    with pytest.raises(DataError, match=message) as caught:
        build(name, **generators)
    assert "x.cif" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_assembly_with_too_many_atoms_is_refused(build, monkeypatch):
    monkeypatch.setattr(assembly, "_MOST_ATOMS", 13)
    with pytest.raises(DataError, match="assembly 1 has 14 atoms; 13 at most"):
        build(_1=[("1,2", "A,B")])


def test_file_without_assemblies_is_refused(tmp_path):
    path = tmp_path / "x.cif"
    path.write_text(mmcif(), encoding="utf-8")
    with pytest.raises(DataError, match=r"x\.cif: no assembly 1; the file has none"):
        prepare(Store(tmp_path / "store"), Sources(structure=path, assembly="1"))


def test_assembly_is_a_separate_entry(tmp_path):
    path, store = tmp_path / "x.cif", Store(tmp_path / "store")
    path.write_text(mmcif() + assemblies(_1=[("1,2", "A,B")]), encoding="utf-8")
    assert prepare(store, Sources(structure=path)).entry == "test"
    assert prepare(store, Sources(structure=path, assembly="1")).entry == "test-assembly1"
    one, two = store.open("test"), store.open("test-assembly1")
    assert two.tokens == 2 * one.tokens
    assert two.structure["token_symmetry"].tolist() == [0] * one.tokens + [1] * one.tokens
    assert {a.path.name for a in two.alignments.values()} == {one.alignments[0].path.name}
