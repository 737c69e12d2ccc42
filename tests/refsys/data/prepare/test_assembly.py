"""Biological assemblies: which chains, where, and which bonds between them."""

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
    """Categories of assemblies by name: (operators, chains) of each generator."""
    details = dict.fromkeys(DETAILS, "?")
    listed = [{"id": name.lstrip("_")} | details for name in generators]
    rows = [
        {"assembly_id": name.lstrip("_"), "oper_expression": which, "asym_id_list": chains}
        for name, own in generators.items()
        for which, chains in own
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
    own = [residue.atoms for residue in structure.residues if residue.chain == number]
    return [row for atoms in own for row in atoms]


def test_the_identity_alone_is_the_asymmetric_unit(build):
    structure, found = build(_1=[("1", "A,B,C")])
    assert found.chains == structure.chains
    assert found.residues == structure.residues
    assert (found.positions == structure.positions).all()
    assert (found.connections == structure.connections).all()


def test_copies_are_the_chains_moved_as_the_operators_say(build):
    structure, found = build(_1=[("1,2", "A,B,C")])
    assert [chain.name for chain in found.chains] == ["A", "B", "A-2", "B-2"]
    assert [chain.entity for chain in found.chains] == ["1", "2", "1", "2"]
    for number in range(4):
        here, there = chain_rows(found, number), chain_rows(structure, number % 2)
        for column in ("names", "elements", "charges"):
            assert (getattr(found, column)[here] == getattr(structure, column)[there]).all()
        expected = structure.positions[there]
        if number > 1:
            expected = np.array([TURN @ place + SHIFT for place in expected.tolist()])
        assert found.positions[here] == pytest.approx(expected, abs=1e-5)
    assert [r.component for r in found.residues] == 2 * [r.component for r in structure.residues]
    rows = [row for residue in found.residues for row in residue.atoms]
    assert rows == list(range(len(found.names)))


def test_bonds_are_copied_with_chains_that_move_together(build):
    _, found = build(_1=[("1,2", "A,B")])
    assert found.names[found.connections].tolist() == [["SE", "ZN"]] * 2
    first, second = found.connections.tolist()
    assert [row + len(found.names) // 2 for row in first] == second
    # The zinc of one place and the protein of another are not bonded.
    _, apart = build(_1=[("1", "A"), ("2", "B")])
    assert not len(apart.connections)


def test_generators_that_have_the_same_motion_move_together(build):
    _, found = build(_1=[("2", "A"), ("2", "B")])
    assert len(found.connections) == 1
    assert [chain.name for chain in found.chains] == ["A", "B"]


def test_copies_take_names_that_the_file_does_not_have(tmp_path):
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
def test_an_operator_that_moves_atoms_too_far_is_refused(tmp_path, value):
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
def test_what_cannot_be_built_is_refused_in_one_line(build, name, generators, message):
    with pytest.raises(DataError, match=message) as caught:
        build(name, **generators)
    assert "x.cif" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_more_atoms_than_anything_has_are_refused(build, monkeypatch):
    monkeypatch.setattr(assembly, "_MOST_ATOMS", 13)
    with pytest.raises(DataError, match="assembly 1 has 14 atoms; 13 at most"):
        build(_1=[("1,2", "A,B")])


def test_a_file_without_assemblies_says_so(tmp_path):
    path = tmp_path / "x.cif"
    path.write_text(mmcif(), encoding="utf-8")
    with pytest.raises(DataError, match=r"x\.cif: no assembly 1; the file has none"):
        prepare(Store(tmp_path / "store"), Sources(structure=path, assembly="1"))


def test_an_assembly_is_an_entry_of_its_own(tmp_path):
    path, store = tmp_path / "x.cif", Store(tmp_path / "store")
    path.write_text(mmcif() + assemblies(_1=[("1,2", "A,B")]), encoding="utf-8")
    assert prepare(store, Sources(structure=path)).entry == "test"
    assert prepare(store, Sources(structure=path, assembly="1")).entry == "test-assembly1"
    one, two = store.open("test"), store.open("test-assembly1")
    assert two.tokens == 2 * one.tokens
    assert two.structure["token_symmetry"].tolist() == [0] * one.tokens + [1] * one.tokens
    assert {a.path.name for a in two.alignments.values()} == {one.alignments[0].path.name}
