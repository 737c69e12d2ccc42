"""Conformers: as the dictionary has bonds and handedness, several, and the same every time."""

import numpy as np
import pytest

from refsys.data.formats.components import component
from refsys.data.prepare import conformers as module
from refsys.data.prepare.conformers import CONFORMERS, conformers
from refsys.data.vocabulary import AMINO_ACIDS
from refsys.errors import DataError

NITROGEN = 7
EMBEDDED = (*AMINO_ACIDS, "DA", "DC", "DG", "DT", "A", "C", "G", "U", "NAG", "MSE", "STI")


def lengths(positions, bonds):
    return np.linalg.norm(np.diff(positions[:, bonds], axis=2)[:, :, 0], axis=-1)


def volumes(positions, definition):
    """[conformer, centre] of the tetrahedron of each atom's first three neighbours; amines flip."""
    found = []
    for atom in range(len(definition.names)):
        ends = definition.bonds[(definition.bonds == atom).any(axis=1)]
        others = [int(end) for pair in ends for end in pair if end != atom][:3]
        if len(others) == 3 and definition.elements[atom] != NITROGEN:
            arms = positions[:, others] - positions[:, [atom]]
            found.append(np.linalg.det(arms))
    return np.array(found).T.reshape(len(positions), -1)


@pytest.mark.parametrize("name", EMBEDDED)
def test_they_are_as_the_dictionary_says(name):
    definition, found = component(name), conformers(name)
    assert found.shape == (CONFORMERS, len(definition.names), 3)
    assert found.dtype == np.float32
    assert np.abs(found.mean(axis=1)).max() < 1e-4
    assert (found != definition.positions).any()
    ideal = lengths(definition.positions[None], definition.bonds)
    assert np.abs(lengths(found, definition.bonds) - ideal).max() < 0.15
    wanted = volumes(definition.positions[None], definition)
    # What is flat has no handedness.
    handed = np.abs(wanted[0]) > 2
    assert (np.sign(volumes(found, definition))[:, handed] == np.sign(wanted)[:, handed]).all()


@pytest.mark.parametrize("name", ["ARG", "TRP", "STI"])
def test_they_differ(name):
    found = conformers(name)
    apart = np.linalg.norm(found[:, :, None] - found[:, None], axis=-1)
    for one in range(CONFORMERS):
        for two in range(one):
            assert np.abs(apart[one] - apart[two]).max() > 0.3


@pytest.mark.parametrize("name", ["HEM", "SF4", "MG", "CLA", "HOH"])
def test_what_cannot_be_embedded_has_the_dictionary_s_coordinates(name):
    definition = component(name)
    assert (conformers(name) == definition.positions).all()


def test_they_are_the_same_every_time():
    found = conformers("TRP")
    assert (conformers.__wrapped__("TRP") == found).all()


def test_a_small_limit_on_the_size_spares_the_embedding(monkeypatch):
    monkeypatch.setattr(module, "_MOST_ATOMS", 5)
    assert (conformers.__wrapped__("TRP") == component("TRP").positions).all()


def test_without_rdkit_it_says_how_to_have_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rdkit", None)
    with pytest.raises(DataError, match=r"need RDKit: pip install"):
        conformers.__wrapped__("TRP")
