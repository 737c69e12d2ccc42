"""Written files are prepared to the same atoms, names, chains, bonds and kinds."""

from pathlib import Path

import numpy as np
import pytest
from support import mmcif as part
from support.mmcif import mmcif

from refsys.data.formats.write_mmcif import write_mmcif
from refsys.data.prepare.entries import Sources, prepare
from refsys.data.store.store import Store

CASES = Path(__file__).resolve().parents[3] / "cases"
# Columns that tell which atoms, tokens and bonds there are; the rest tells where they are.
IDENTITY = (
    *("atom_charge", "atom_element", "atom_name", "atom_token", "bond_atoms"),
    *("residue_chain", "residue_component", "residue_number", "token_element", "token_entity"),
    *("token_molecule", "token_residue_type", "token_symmetry"),
)
KINDS = ("name", "entity", "kind", "polymer", "sequence")


@pytest.fixture
def round_trip(tmp_path):
    """Return a function that prepares a file, writes all its atoms, and prepares the result."""

    def round_trip(path):
        one = Store(tmp_path / "one")
        before = one.open(prepare(one, Sources(structure=path)).entry).structure
        rows = np.arange(len(before["atom_token"]))
        written, confidence = tmp_path / "written.cif", np.zeros(len(rows), np.float32)
        write_mmcif(written, before, rows, np.array(before["atom_position"]), confidence)
        two = Store(tmp_path / "two")
        after = two.open(prepare(two, Sources(structure=written)).entry).structure
        return before, after

    return round_trip


def assert_equal(before, after):
    for name in IDENTITY:
        assert np.array_equal(before[name], after[name]), name
    chains = [
        [[chain[key] for key in KINDS] for chain in structure.facts["chains"]]
        for structure in (before, after)
    ]
    assert chains[0] == chains[1]


@pytest.mark.parametrize(
    "case",
    [
        *("biopython_only_atom_site/in", "cyclic_pseudo_peptide/in", "glycan/in"),
        *("lowercase_atom_names/in4", "unknown_ccd5/in"),
    ],
)
def test_written_case_is_prepared_to_the_same_record(round_trip, case):
    assert_equal(*round_trip(CASES / f"{case}.cif"))


@pytest.mark.parametrize("entry", ["5lwx", "10sb", "2q2k"])
def test_written_structure_is_prepared_to_the_same_record(round_trip, sources, entry):
    """Entries with glycans, modified residues, undefined components and modified nucleotides."""
    assert_equal(*round_trip(sources[entry].structure.cached))


@pytest.mark.parametrize(
    "name",
    ["A B", "A'", '"', "A'B\"", "#1", "_x", "$a", "[a]", ";x", "data_x", "loop_", "é", ".", "?"],
)
def test_chain_and_entity_names_are_quoted_when_necessary(round_trip, tmp_path, name):
    """Names of a chain and of its entity."""
    path, quoted = tmp_path / "x.cif", f"\n;{name}\n;\n"
    text = mmcif(
        entity=part.ENTITY.replace("2 non-", f"{quoted} non-"),
        chains=part.CHAINS.replace("B 2", f"{quoted}{quoted}"),
        atoms=[row.replace(" B 2 ", f"{quoted}{quoted} ") for row in part.ATOM_ROWS],
        connections="",
    )
    path.write_text(text, encoding="utf-8")
    before, after = round_trip(path)
    assert before.facts["chains"][1]["name"] == before.facts["chains"][1]["entity"] == name
    assert_equal(before, after)


@pytest.mark.parametrize("name", ["C 1", "O5'", "H5''", 'A"', "#1", "_1", "?", ".", "C1*"])
def test_atom_names_are_quoted_when_necessary(round_trip, tmp_path, name):
    path = tmp_path / "x.cif"
    row = f"HETATM 9 C\n;{name}\n;\n. XX9Z B 2 . 101 4.0 4.0 4.0 1.0 0 1"
    path.write_text(mmcif(atoms=(*part.ATOM_ROWS[:8], row), connections=""), encoding="utf-8")
    before, after = round_trip(path)
    assert before["atom_name"][-1] == name.encode()
    assert_equal(before, after)


@pytest.mark.parametrize(
    "polymer",
    [
        *("polypeptide(D)", "cyclic-pseudo-peptide", "other", "peptide nucleic acid"),
        *("polysaccharide(D)", "polydeoxyribonucleotide/polyribonucleotide hybrid"),
    ],
)
def test_types_of_polymers_are_written(round_trip, tmp_path, polymer):
    path = tmp_path / "x.cif"
    path.write_text(
        mmcif(entity_poly=part.ENTITY_POLY.replace("polypeptide(L)", polymer)), encoding="utf-8"
    )
    before, after = round_trip(path)
    assert before.facts["chains"][0]["polymer"] == polymer
    assert_equal(before, after)
