"""Residues without heavy atoms in the first model, waters, and alternative locations."""

import numpy as np
import pytest
from support import mmcif as part
from support.mmcif import mmcif

from refsys.data.formats.mmcif import read_structure
from refsys.errors import DataError

ZINC = part.ATOM_ROWS[8]
PROTEIN = part.ATOM_ROWS[:8]


@pytest.fixture
def read(tmp_path):
    def read(*rows, **parts):
        path = tmp_path / "x.cif"
        path.write_text(mmcif(atoms=rows, connections="", **parts), encoding="utf-8")
        return read_structure(path)

    return read


def names(structure):
    return [chain.name for chain in structure.chains]


class TestLeftOut:
    @pytest.mark.parametrize("element", ["D", "H"])
    def test_ion_of_hydrogen_is_noted(self, read, element):
        ion = f"HETATM 9 {element} D . D8U B 2 . 101 4.0 4.0 4.0 1.0 ? 1"
        structure = read(*PROTEIN, ion)
        assert names(structure) == ["A"]
        assert structure.notes == (
            "1 residue has hydrogen or deuterium alone and is left out, first: D8U B 101",
        )
        beside = read(*PROTEIN, ion, ZINC.replace("101", "102"))
        assert names(beside) == ["A", "B"]
        assert beside.notes == structure.notes

    def test_residues_of_later_models_alone_are_noted(self, read):
        later = f"{ZINC[:-1]}2"
        structure = read(*PROTEIN, later)
        assert names(structure) == ["A"]
        assert structure.notes == (
            "1 residue is in a later model alone and is left out, first: ZN B 101",
        )
        beside = read(*PROTEIN, ZINC, later.replace("101", "102"), later.replace("101", "103"))
        assert names(beside) == ["A", "B"]
        assert beside.notes == (
            "2 residues are in later models alone and are left out, first: ZN B 102",
        )

    def test_polymer_of_a_later_model_alone_is_noted(self, read):
        structure = read(ZINC, *(f"{row[:-1]}2" for row in PROTEIN))
        assert names(structure) == ["B"]
        assert structure.notes == (
            "3 residues are in later models alone and are left out, first: MET A 1",
        )

    def test_residue_that_two_models_have_is_not_noted(self, read):
        assert not read(*PROTEIN, ZINC, f"{ZINC[:-1]}2").notes

    def test_chain_without_any_atom_is_refused(self, read):
        with pytest.raises(DataError, match="chain B has no heavy atoms; is the file truncated"):
            read(*PROTEIN)

    def test_structure_of_hydrogen_alone_is_refused(self, read):
        rows = [part.ATOM_ROWS[4], ZINC.replace(" ZN ", " H ", 1)]
        with pytest.raises(DataError, match="nothing but water and hydrogen in the first model"):
            read(*rows)


class TestWater:
    @pytest.mark.parametrize("component", ["HOH", "DOD", "hoh"])
    def test_water_is_left_out_whatever_its_entity(self, read, component):
        water = f"HETATM 9 O O . {component} B 2 . 102 9.0 9.0 9.0 1.0 ? 1"
        assert names(read(*PROTEIN, water)) == ["A"]
        structure = read(*PROTEIN, ZINC, water)
        assert [r.component for r in structure.residues if r.chain == 1] == ["ZN"]
        assert not structure.notes

    def test_other_components_of_a_water_entity_are_noted(self, read):
        sulphate = "HETATM 9 S S . SO4 C 3 . 202 4.0 4.0 4.0 1.0 ? 1"
        structure = read(*PROTEIN, ZINC, part.ATOM_ROWS[9], sulphate)
        assert structure.notes == (
            "1 residue of a water entity is not HOH or DOD and is left out, first: SO4 C 202",
        )


def location(name, label, occupancy, component="SER"):
    """Return a row of an atom of residue 2, whose position identifies its location."""
    x = ord(label) if label != "." else 0
    return (
        f"ATOM 6 {name[0]} {name} {label} {component} A 1 2 2 {x}.0 {len(name)}.0 0.0 "
        f"{occupancy} ? 1"
    )


SERINE, THREONINE = ("N", "CA", "C", "O", "CB", "OG"), ("N", "CA", "C", "O", "CB", "OG1", "CG2")


@pytest.mark.parametrize(
    ("rows", "component", "atoms", "label"),
    {
        "the better occupied of two whole ones": (
            [location(n, label, o) for label, o in (("A", 0.4), ("B", 0.6)) for n in SERINE],
            "SER", SERINE, "B",
        ),
        "the first of two that are equal": (
            [location(n, label, 0.5) for label in "BA" for n in SERINE],
            "SER", SERINE, "A",
        ),
        "a whole one, not one atom that is better occupied": (
            [location("OG", "B", 0.9), *(location(n, "A", 0.6) for n in SERINE)],
            "SER", SERINE, "A",
        ),
        "a whole one, not one atom of another component": (
            [location("OG1", "B", 0.9, "THR"), *(location(n, "A", 0.6) for n in SERINE)],
            "SER", SERINE, "A",
        ),
        "the better occupied component, not the larger": (
            [
                *(location(n, "A", 0.52) for n in SERINE),
                *(location(n, "B", 0.48, "THR") for n in THREONINE),
            ],
            "SER", SERINE, "A",
        ),
        "with the atoms that all share": (
            [
                *(location(n, ".", 1.0) for n in SERINE[:4]),
                *(location(n, label, o) for label, o in (("A", 0.3), ("B", 0.7))
                  for n in SERINE[4:]),
            ],
            "SER", SERINE, "B",
        ),
    }.values(),
)  # fmt: skip
def test_location_of_the_largest_occupied_share_stays(read, rows, component, atoms, label):
    sequence = part.SEQUENCE.replace("1 2 GLY", "1 2 SER\n1 2 THR")
    structure = read(*PROTEIN[:5], *rows, *PROTEIN[6:], ZINC, sequence=sequence)
    residue = structure.residues[1]
    assert residue.component == component
    assert structure.names[residue.atoms].tolist() == list(atoms)
    places = structure.positions[residue.atoms, 0]
    assert set(np.unique(places).tolist()) <= {0.0, float(ord(label))}


def test_residue_of_more_atoms_than_any_component_is_refused(read, monkeypatch):
    monkeypatch.setattr("refsys.data.formats.mmcif._MOST_ATOMS_OF_RESIDUE", 2)
    with pytest.raises(DataError, match="row 1: MET A 1 has 3 heavy atoms; a residue has at most"):
        read(*PROTEIN, ZINC)


@pytest.mark.parametrize("symbol", ["ı", "ſ", "ß"])
def test_letters_whose_upper_case_is_an_element_are_none(read, symbol):
    with pytest.raises(DataError, match=f"row 9: type_symbol {symbol} is not an element"):
        read(*PROTEIN, ZINC.replace(" ZN ", f" '{symbol}' ", 1))
