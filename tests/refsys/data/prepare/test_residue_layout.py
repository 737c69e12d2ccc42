"""Layouts of residues: tokens, frames, and atoms that bonds replace."""

import numpy as np
import pytest

from refsys.batch import DNA as DNA_MOLECULE
from refsys.batch import LIGAND, PROTEIN
from refsys.batch import RNA as RNA_MOLECULE
from refsys.data.formats.components import component
from refsys.data.prepare.residue_layout import layout_of, leaving_atoms, left_out
from refsys.data.vocabulary import AMINO_ACIDS, DNA, PURINES, RNA

NOTHING = frozenset()
LIGANDS = ("HEM", "NAG", "MAN", "ATP", "GOL", "SO4", "LVK", "EPE", "P1W", "MUB", "STI")


@pytest.mark.parametrize("name", [*AMINO_ACIDS, *RNA, *DNA, "MSE", *LIGANDS])
def test_ligand_frames_have_the_nearest_atoms(name):
    layout = layout_of(name, "ligand", NOTHING)
    positions = layout.reference.astype(np.float64)
    for atom, frame in enumerate(layout.frames):
        order = sorted(
            (float(np.linalg.norm(positions[other] - positions[atom])), other)
            for other in range(len(positions))
            if other != atom
        )
        assert frame.tolist() == [order[0][1], atom, order[1][1]]
    assert layout.molecule == LIGAND
    assert layout.token_elements.tolist() == layout.elements.tolist()
    assert {tuple(pair) for pair in layout.bonds} == {tuple(pair) for pair in component(name).bonds}


@pytest.mark.parametrize("name", [*AMINO_ACIDS, *RNA, *DNA])
def test_standard_residue_is_one_token(name):
    kind = "protein" if name in AMINO_ACIDS else "rna" if name in RNA else "dna"
    layout = layout_of(name, kind, NOTHING)
    atoms = np.array(layout.names)
    assert layout.molecule == {"protein": PROTEIN, "rna": RNA_MOLECULE, "dna": DNA_MOLECULE}[kind]
    assert len(layout.first_atoms) == 1
    assert not len(layout.bonds)
    if kind == "protein":
        center, frame = "CA", ["N", "CA", "C"]
        representative = "CA" if name == "GLY" else "CB"
    else:
        center, frame = "C1'", ["C1'", "C3'", "C4'"]
        representative = "C4" if name in PURINES else "C2"
    assert atoms[layout.centers].tolist() == [center]
    assert atoms[layout.representatives].tolist() == [representative]
    assert atoms[layout.frames[0]].tolist() == frame


def test_molecule_of_hybrid_nucleotide_follows_its_component():
    assert layout_of("A", "dna", NOTHING).molecule == RNA_MOLECULE
    assert layout_of("DA", "rna", NOTHING).molecule == DNA_MOLECULE
    assert layout_of("5CM", "dna", NOTHING).molecule == DNA_MOLECULE
    assert layout_of("ALA", "other", NOTHING).molecule == LIGAND


def test_atoms_replaced_by_chain_bonds_are_left_out():
    alanine, guanosine = component("ALA"), component("G")
    assert left_out(alanine, "protein", first=True, last=False) == {"OXT"}
    assert left_out(alanine, "protein", first=False, last=True) == NOTHING
    assert left_out(guanosine, "rna", first=False, last=True) == {"OP3"}
    assert left_out(guanosine, "rna", first=True, last=False) == NOTHING
    assert left_out(alanine, "ligand", first=False, last=False) == NOTHING


def test_leaving_atoms_follow_the_bonded_atom():
    """A sugar loses the oxygen of its first carbon only if that carbon is bonded."""
    sugar = component("NAG")
    assert leaving_atoms(sugar, {"C1"}) == {"O1"}
    assert leaving_atoms(sugar, {"O4"}) == NOTHING
    assert leaving_atoms(sugar, {"C1", "O1"}) == NOTHING
    assert leaving_atoms(component("ALA"), {"C"}) == {"OXT"}


def test_layout_without_an_atom_loses_only_its_bonds():
    whole, part = (layout_of("NAG", "ligand", without) for without in (NOTHING, frozenset({"O1"})))
    gone = whole.names.index("O1")
    assert part.names == tuple(name for name in whole.names if name != "O1")
    assert (part.reference == np.delete(whole.reference, gone, axis=0)).all()
    named = [
        {frozenset((layout.names[a], layout.names[b])) for a, b in layout.bonds}
        for layout in (whole, part)
    ]
    assert named[0] - named[1] == {frozenset(("C1", "O1"))}
    assert not named[1] - named[0]
