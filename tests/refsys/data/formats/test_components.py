"""Components of the dictionary."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from biotite.structure import info

from refsys.data.formats.components import bonded_atoms, component
from refsys.data.vocabulary import AMINO_ACIDS, ATOMIC_NUMBERS, DNA, RNA

ROOT = Path(__file__).resolve().parents[4]
LIGANDS = ("HEM", "NAG", "MAN", "ATP", "GOL", "SO4", "LVK", "EPE", "P1W", "MUB", "STI")


@pytest.mark.parametrize("name", [*AMINO_ACIDS, *RNA, *DNA, "MSE", *LIGANDS])
def test_component_has_distinct_names_and_plausible_bond_lengths(name):
    """Bonded atoms of the reference coordinates are at plausible distances."""
    definition = component(name)
    assert len(set(definition.names)) == len(definition.names)
    assert not set(definition.elements.tolist()) & {0, 1}
    ends = definition.positions[definition.bonds]
    assert definition.has_position.all()
    lengths = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
    assert lengths.min() > 1.1
    assert lengths.max() < 2.5
    assert definition.positions.mean(axis=0) == pytest.approx([0, 0, 0], abs=1e-4)


def test_undefined_component_is_none():
    assert component("XX9Z") is None


def test_charges_and_elements_equal_the_dictionary():
    heme = component("HEM")
    assert heme.elements[heme.names.index("FE")] == ATOMIC_NUMBERS["FE"]
    phosphate = component("PO4")
    assert phosphate.charges.sum() == -3


@pytest.mark.filterwarnings("ignore:The coordinates are missing for some atoms")
@pytest.mark.parametrize("name", ["ALA", "PSU", "ATP", "HEM"])
def test_bonded_atoms_equal_those_of_the_whole_dictionary(name):
    atoms, expected = bonded_atoms(name), info.residue(name)
    assert atoms.bonds == expected.bonds
    assert np.array_equal(atoms.coord, expected.coord)
    for annotation in ("res_name", "atom_name", "element", "charge"):
        values = atoms.get_annotation(annotation)
        assert np.array_equal(values, expected.get_annotation(annotation)), annotation


def test_bonded_atoms_of_an_ion_are_none():
    assert bonded_atoms("NA") is None


def test_unread_columns_of_the_dictionary_are_not_decoded():
    """Measured as memory: decoding all columns takes 1.4 GB."""
    code = "from refsys.data.formats.components import component_type\n"
    code += "from refsys.data.prepare.conformers import conformers\n"
    code += "component_type('ALA'), conformers('ALA')\n"
    code += "print(open('/proc/self/status', encoding='utf-8').read())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, encoding="utf-8"
    )
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", done.stdout, re.MULTILINE)
    assert int(peak) < 2**20
