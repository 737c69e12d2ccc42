"""Automorphisms of components: known cases, comparison with brute force, and invariances."""

from dataclasses import dataclass, replace
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from refsys.data.prepare import automorphisms
from refsys.data.prepare.automorphisms import LARGEST_COUNT, component_automorphisms

NUMBERS = {"C": 6, "N": 7, "O": 8, "P": 15, "S": 16, "Z": 30}
TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])


@dataclass(frozen=True)
class Parts:
    """Parts of a component; the first letter of an atom's name is its element."""

    names: tuple[str, ...]
    bonds: np.ndarray
    positions: np.ndarray

    def relabelings(self, has_position=None):
        elements = np.array([NUMBERS[name[0]] for name in self.names], np.uint8)
        if has_position is None:
            has_position = np.ones(len(self.names), bool)
        return component_automorphisms(elements, self.bonds, self.positions, has_position)

    def moved(self, has_position=None):
        """Return the names of the atoms that some automorphism moves."""
        rows = self.relabelings(has_position)
        return {self.names[atom] for atom in np.flatnonzero((rows != rows[0]).any(axis=0))}

    def ordered(self, order):
        """Return the same component with its atoms in another order."""
        index_of = np.argsort(order)
        names = tuple(self.names[atom] for atom in order)
        return Parts(names, index_of[self.bonds], self.positions[order])


def parts(bonds, **positions):
    names = tuple(positions)
    pairs = [[names.index(name) for name in bond.split("-")] for bond in bonds.split()]
    return Parts(names, np.array(pairs).reshape(-1, 2), np.array(list(positions.values()), float))


ASP = parts(
    "N-CA CA-C CA-CB C-O CB-CG CG-OD1 CG-OD2",
    N=(-0.32, 1.68, 0.07),
    CA=(-0.47, 0.28, -0.34),
    C=(-1.87, -0.18, -0.03),
    O=(-2.54, 0.41, 0.79),
    CB=(0.54, -0.58, 0.42),
    CG=(1.94, -0.2, 0.01),
    OD1=(2.11, 0.68, -0.81),
    OD2=(2.99, -0.83, 0.55),
)
LEU = parts(
    "N-CA CA-C CA-CB C-O CB-CG CG-CD1 CG-CD2",
    N=(-1.65, 0.62, -0.44),
    CA=(-0.2, 0.44, -0.5),
    C=(0.19, -0.06, -1.87),
    O=(-0.58, -0.73, -2.51),
    CB=(0.23, -0.59, 0.55),
    CG=(-0.16, -0.08, 1.94),
    CD1=(0.26, -1.11, 2.99),
    CD2=(0.53, 1.25, 2.22),
)
PHE = parts(
    "N-CA CA-C CA-CB C-O CB-CG CG-CD1 CG-CD2 CD1-CE1 CD2-CE2 CE1-CZ CE2-CZ",
    N=(1.32, 0.97, 1.17),
    CA=(-0.01, 0.43, 1.46),
    C=(-0.1, 0.05, 2.91),
    O=(0.89, -0.31, 3.5),
    CB=(-0.26, -0.8, 0.59),
    CG=(-0.17, -0.42, -0.86),
    CD1=(1.04, -0.49, -1.52),
    CD2=(-1.31, -0.01, -1.54),
    CE1=(1.12, -0.14, -2.86),
    CE2=(-1.22, 0.34, -2.87),
    CZ=(-0.01, 0.27, -3.53),
)
RING = np.array([[np.cos(a), np.sin(a), 0] for a in np.arange(6) * np.pi / 3])
BENZENE = Parts(
    tuple(f"C{k}" for k in range(6)), np.array([(k, (k + 1) % 6) for k in range(6)]), RING
)
STAR = np.array([(0, 1), (0, 2), (0, 3), (0, 4)])
CORNERS = np.concatenate([np.zeros((1, 3)), TETRAHEDRON])
NEOPENTANE = Parts(("C", "C1", "C2", "C3", "C4"), STAR, CORNERS)
METHYL_PHOSPHATE = Parts(
    ("P", "O5'", "OP1", "OP2", "C5'"),
    np.array([(0, 1), (0, 2), (0, 3), (1, 4)]),
    np.concatenate([CORNERS[:4], [[2, 2, 1]]]),
)
GUANIDINIUM = parts(
    "CD-NE NE-CZ CZ-NH1 CZ-NH2",
    CD=(0, 2.4, 0),
    NE=(1.1, 1.3, 0),
    CZ=(0, 0, 0),
    NH1=(1.1, -0.7, 0.05),
    NH2=(-1.1, -0.7, -0.05),
)
IONS = Parts(("ZN1", "ZN2", "S"), np.empty((0, 2), int), np.arange(9.0).reshape(3, 3))
ALL = {
    "asp": ASP,
    "leu": LEU,
    "phe": PHE,
    "benzene": BENZENE,
    "neopentane": NEOPENTANE,
    "phosphate": METHYL_PHOSPHATE,
    "guanidinium": GUANIDINIUM,
    "ions": IONS,
}


@pytest.mark.parametrize(
    ("name", "count", "changed"),
    [
        ("asp", 2, {"OD1", "OD2"}),
        ("leu", 1, set()),
        ("phe", 2, {"CD1", "CD2", "CE1", "CE2"}),
        ("benzene", 12, set(BENZENE.names)),
        # Rotations of a tetrahedron, and none of its mirror images.
        ("neopentane", 12, {"C1", "C2", "C3", "C4"}),
        ("phosphate", 1, set()),
        ("guanidinium", 2, {"NH1", "NH2"}),
        ("ions", 2, {"ZN1", "ZN2"}),
    ],
)
def test_equivalent_atoms_are_exchanged(name, count, changed):
    assert len(ALL[name].relabelings()) == count
    assert ALL[name].moved() == changed


@pytest.mark.parametrize("component", ALL.values(), ids=ALL)
def test_automorphisms_form_a_group_in_ascending_order(component):
    rows = component.relabelings()
    assert rows.dtype == np.uint16
    assert rows[0].tolist() == list(range(len(component.names)))
    rows_found = [tuple(row) for row in rows.tolist()]
    assert rows_found == sorted(set(rows_found))
    assert {tuple(one[other]) for one in rows for other in rows.astype(int)} == set(rows_found)


@pytest.mark.parametrize("component", ALL.values(), ids=ALL)
def test_automorphisms_are_invariant_to_motion_mirror_scale_and_atom_order(component):
    rng = np.random.default_rng(0)
    expected = component.relabelings()
    turn = 10 * Rotation.random(random_state=1).as_matrix()
    for linear in (turn, -turn):
        changed = replace(component, positions=component.positions @ linear + 5)
        np.testing.assert_array_equal(changed.relabelings(), expected)
    order = rng.permutation(len(component.names))
    reordered = np.argsort(order)[expected.astype(int)[:, order]]
    assert {*map(tuple, component.ordered(order).relabelings().tolist())} == {
        *map(tuple, reordered.tolist())
    }


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from("CCN"), min_size=4, max_size=6),
    st.sets(st.sampled_from(list(combinations(range(6), 2))), min_size=3),
    st.integers(0, 2**32 - 1),
)
def test_automorphisms_equal_brute_force(letters, pairs, seed):
    count = len(letters)
    bonds = [pair for pair in pairs if max(pair) < count]
    positions = np.random.default_rng(seed).normal(size=(count, 3))
    component = Parts(tuple(letters), np.array(bonds, int).reshape(-1, 2), positions)
    rows_found = {tuple(row) for row in component.relabelings().tolist()}
    every = permutations(range(count))
    expected = {row for row in every if keeps(row, letters, bonds, positions)}
    assert rows_found <= expected
    assert len(rows_found) == min(len(expected), LARGEST_COUNT)


def keeps(row, letters, bonds, positions):
    """Return whether a permutation is an automorphism by definition."""
    bonded = {frozenset(bond) for bond in bonds}
    if any(letters[atom] != letters[image] for atom, image in enumerate(row)):
        return False
    if {frozenset((row[one], row[other])) for one, other in bonds} != bonded:
        return False

    def triple(center, three):
        offsets = positions[list(three)] - positions[center]
        a, b, c = offsets / np.linalg.norm(offsets, axis=1)[:, None]
        return a @ np.cross(b, c)

    for center in range(len(row)):
        around = [atom for atom in range(len(row)) if frozenset((center, atom)) in bonded]
        for three in combinations(around, 3):
            handedness, image_handedness = (
                triple(center, three),
                triple(row[center], [row[a] for a in three]),
            )
            if (
                min(abs(handedness), abs(image_handedness)) > 0.2
                and handedness * image_handedness < 0
            ):
                return False
    return True


def test_atoms_around_one_without_position_are_fixed():
    for component, lost in ((LEU, "CD2"), (ASP, "OD1"), (ASP, "CB"), (NEOPENTANE, "C4")):
        has_position = np.array([name != lost for name in component.names])
        changed = replace(
            component, positions=np.where(has_position[:, None], component.positions, np.nan)
        )
        assert changed.moved(has_position) == set()
    # Two neighbours have no handedness; distant atoms do not matter.
    nothing = np.zeros(6, bool)
    assert len(replace(BENZENE, positions=np.full((6, 3), np.nan)).relabelings(nothing)) == 12
    assert ASP.moved(np.array([name != "O" for name in ASP.names])) == {"OD1", "OD2"}


@pytest.mark.parametrize("count", [0, 1])
def test_component_of_at_most_one_atom_has_the_identity_alone(count):
    lone = Parts(("ZN",) * count, np.empty((0, 2), int), np.zeros((count, 3)))
    assert lone.relabelings().tolist() == [list(range(count))]


def test_repeated_bonds_change_nothing():
    twice = replace(ASP, bonds=np.concatenate([ASP.bonds, ASP.bonds[:, ::-1]]))
    np.testing.assert_array_equal(twice.relabelings(), ASP.relabelings())


@pytest.mark.parametrize("arms", [2, 20])
def test_number_of_automorphisms_is_limited(arms):
    """Neopentane's twelve for each of many molecules that can also be exchanged."""
    count = 5 * arms
    bonds = np.concatenate([STAR + 5 * arm for arm in range(arms)])
    cluster = Parts(("C",) * count, bonds, np.tile(CORNERS, (arms, 1)).astype(float))
    rows = cluster.relabelings()
    assert len(rows) == LARGEST_COUNT
    assert rows[0].tolist() == list(range(count))
    np.testing.assert_array_equal(rows, cluster.relabelings())
    assert (np.sort(rows, axis=1) == np.arange(count)).all()
    assert len(np.unique(rows, axis=0)) == LARGEST_COUNT


def test_search_beyond_its_effort_returns_partial_results(monkeypatch):
    whole = {tuple(row) for row in BENZENE.relabelings().tolist()}
    sizes = []
    for effort in (0, 30, 60, 1000):
        monkeypatch.setattr(automorphisms, "_LARGEST_EFFORT", effort)
        rows = BENZENE.relabelings()
        assert rows[0].tolist() == list(range(6))
        assert {tuple(row) for row in rows.tolist()} <= whole
        sizes.append(len(rows))
    assert sizes[0] == 1 < sizes[1] < sizes[-1] == len(whole)
    assert sizes == sorted(sizes)
