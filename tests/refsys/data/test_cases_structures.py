"""Structure files of other programs and of unusual molecules: one outcome and its notes each."""

from pathlib import Path

import numpy as np
import pytest

from bench.cli import main
from refsys.data.formats.mmcif import read_structure
from refsys.data.prepare.entries import Sources, prepare
from refsys.data.store.store import Store

CASES = Path(__file__).resolve().parents[2] / "cases"
SEQUENCE = "MGSKACDHFWLV"
# Case -> (entry, tokens, notes).
PREPARED = {
    "altloc_best_lacks": ("altpart", 12, []),
    "biopython_only_atom_site": (
        "biopy",
        12,
        [
            "no _entity, _entity_poly_seq and _struct_asym: the sequence of each polymer is that "
            "of the residues in _atom_site"
        ],
    ),
    "conn_to_nothing": (
        "badconn",
        27,
        ["2 connections match no atom, first: A 4 NZZ - B 1 C1"],
    ),
    "cyclic_pseudo_peptide": (
        "cycp",
        12,
        ["1 modelled atom is not of its component and is left out, first: A 12 VAL OXT"],
    ),
    "deuterium_ion": (
        "d8u",
        12,
        ["1 residue has hydrogen or deuterium alone and is left out, first: D8U B 1"],
    ),
    "glycan": ("gly", 12 + 29, []),
    "lowercase_atom_names/in4": (
        "low4",
        12 + 3,
        [
            "2 atom names are read in upper case, first: ZZZZ9 B 200 CABz",
            "1 component has no definition, no bonds and no conformer, first: ZZZZ9",
        ],
    ),
    "lowercase_comp": ("lower", 12, ["12 components are read in upper case, first: met"]),
    "no_auth_seq": ("noauth", 12, []),
    "polytype_upper": ("peptide_upper", 12, []),
    "unknown_ccd5": (
        "newlig",
        12 + 4,
        ["1 component has no definition, no bonds and no conformer, first: A1ZZZ"],
    ),
}
REFUSED = {
    "long_atom_names": (
        "_atom_site row 98: ZZZZ9 B 200: atom name 'C1001' has 5 characters; rename it with 1 to 4"
    ),
    "lowercase_atom_names": (
        "_atom_site row 101: ZZZZ9 B 200: atom name 'O{}' has the character '{'; rename it with "
        "letters, digits and other ASCII characters up to the underscore"
    ),
    "nonascii_atom_names": (
        "_atom_site row 98: ZZZZ9 B 200: atom name 'Cα' has the character 'α'; rename it with "
        "letters, digits and other ASCII characters up to the underscore"
    ),
}


def path_of(case):
    folder, _, name = case.partition("/")
    return CASES / folder / f"{name or 'in'}.cif"


@pytest.fixture
def record(tmp_path):
    """Return a function that prepares a case and opens its structure record."""

    def record(case):
        store = Store(tmp_path)
        return store.open(prepare(store, Sources(structure=path_of(case))).entry).structure

    return record


def names(structure, rows):
    return [name.decode() for name in structure["atom_name"][rows].tolist()]


@pytest.mark.parametrize("case", PREPARED)
def test_case_is_prepared_with_notes_on_omissions(case, tmp_path, capsys):
    entry, tokens, notes = PREPARED[case]
    path = path_of(case)
    for state in ("2 records built", "unchanged"):
        assert main(["prepare", str(path), "--store", str(tmp_path)]) == 0
        said = capsys.readouterr()
        assert said.out.startswith(f"{entry}: {tokens} tokens, {state}")
        assert said.out.count("\n") == 1
        assert said.err.splitlines() == [f"foldperf: {path.name}: {note}" for note in notes]


@pytest.mark.parametrize("case", REFUSED)
def test_case_is_refused_by_the_name_of_the_atom(case, tmp_path, capsys):
    path = path_of(case)
    assert main(["prepare", str(path), "--store", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"foldperf: {path}: {REFUSED[case]}\n"
    assert not Store(tmp_path).entries()


@pytest.mark.parametrize(
    "case",
    [
        *("biopython_only_atom_site", "cyclic_pseudo_peptide", "lowercase_comp", "no_auth_seq"),
        "polytype_upper",
    ],
)
def test_case_has_one_protein_of_twelve_residues(case, record):
    structure = record(case)
    (chain,) = structure.facts["chains"]
    assert (chain["name"], chain["kind"], chain["sequence"]) == ("A", "protein", SEQUENCE)
    assert not structure["token_element"].any()


def test_cyclic_peptide_has_no_terminal_oxygen(record):
    structure = record("cyclic_pseudo_peptide")
    assert b"OXT" not in structure["atom_name"].tolist()
    assert structure.facts["dropped_atoms"] == 1


def test_location_of_one_atom_loses_to_a_complete_residue(record):
    structure = record("altloc_best_lacks")
    first, last = structure["residue_first_atom"][3:5]
    assert names(structure, slice(first, last)) == [
        *("N", "CA", "C", "O", "CB", "CG", "CD", "CE", "NZ")
    ]
    assert structure["atom_resolved"][first:last].all()
    assert structure["atom_position"][last - 1].tolist() == pytest.approx([6.639, -0.1, -0.332])


def test_lower_case_atom_names_are_stored_in_upper_case(record):
    structure = record("lowercase_atom_names/in4")
    assert names(structure, slice(-3, None)) == ["C1", "CABZ", "BR2"]


def test_glycan_has_one_bond_between_sugars_and_no_leaving_oxygen(record):
    structure = record("glycan")
    starts = structure["residue_first_atom"]
    one, two = (names(structure, slice(*starts[index : index + 2])) for index in (12, 13))
    assert set(one) - set(two) == {"O1"}
    owner = np.searchsorted(starts, structure["bond_atoms"], side="right") - 1
    between = structure["bond_atoms"][owner[:, 0] != owner[:, 1]]
    assert [names(structure, pair) for pair in between] == [["O4", "C1"]]


def test_unknown_component_has_one_token_per_atom_and_no_conformer(record):
    structure = record("unknown_ccd5")
    assert structure["residue_component"][-1] == b"A1ZZZ"
    assert names(structure, slice(-4, None)) == ["C0", "C1", "C2", "C3"]
    assert structure["token_element"][-4:].tolist() == [6] * 4
    assert not structure["atom_reference_known"][-4:].any()
    assert not len(structure["bond_atoms"])


def test_deuterium_ion_is_left_out_of_the_chains():
    structure = read_structure(path_of("deuterium_ion"))
    assert [chain.name for chain in structure.chains] == ["A"]
