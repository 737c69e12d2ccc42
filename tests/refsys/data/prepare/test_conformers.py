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
    triple_products = []
    for atom in range(len(definition.names)):
        ends = definition.bonds[(definition.bonds == atom).any(axis=1)]
        neighbours = [int(end) for pair in ends for end in pair if end != atom][:3]
        if len(neighbours) == 3 and definition.elements[atom] != NITROGEN:
            arms = positions[:, neighbours] - positions[:, [atom]]
            triple_products.append(np.linalg.det(arms))
    return np.array(triple_products).T.reshape(len(positions), -1)


@pytest.mark.parametrize("name", EMBEDDED)
def test_conformers_have_bond_lengths_and_handedness_of_the_dictionary(name):
    definition, embedded = component(name), conformers(name)
    assert embedded.shape == (CONFORMERS, len(definition.names), 3)
    assert embedded.dtype == np.float32
    assert np.abs(embedded.mean(axis=1)).max() < 1e-4
    assert (embedded != definition.positions).any()
    ideal = lengths(definition.positions[None], definition.bonds)
    assert np.abs(lengths(embedded, definition.bonds) - ideal).max() < 0.15
    expected = volumes(definition.positions[None], definition)
    # What is flat has no handedness.
    handed = np.abs(expected[0]) > 2
    assert (np.sign(volumes(embedded, definition))[:, handed] == np.sign(expected)[:, handed]).all()


@pytest.mark.parametrize("name", ["ARG", "TRP", "STI"])
def test_conformers_of_a_component_differ(name):
    embedded = conformers(name)
    apart = np.linalg.norm(embedded[:, :, None] - embedded[:, None], axis=-1)
    for one in range(CONFORMERS):
        for two in range(one):
            assert np.abs(apart[one] - apart[two]).max() > 0.3


@pytest.mark.parametrize("name", ["HEM", "SF4", "MG", "CLA", "HOH"])
def test_component_that_cannot_be_embedded_has_dictionary_coordinates(name):
    definition = component(name)
    assert (conformers(name) == definition.positions).all()


def test_conformers_are_reproducible():
    embedded = conformers("TRP")
    assert (conformers.__wrapped__("TRP") == embedded).all()


def test_component_above_the_size_limit_is_not_embedded(monkeypatch):
    monkeypatch.setattr(module, "_MOST_ATOMS", 5)
    assert (conformers.__wrapped__("TRP") == component("TRP").positions).all()


def test_conformers_without_rdkit_are_refused_with_a_remedy(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rdkit", None)
    with pytest.raises(DataError, match=r"need RDKit: pip install"):
        conformers.__wrapped__("TRP")
