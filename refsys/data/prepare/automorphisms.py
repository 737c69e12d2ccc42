"""Relabelings of a chemical component that chemistry cannot tell apart.

Two carboxylate oxygens, or the two sides of a phenyl ring, have different names and the same
surroundings. They are found when a structure is prepared; `refsys.data.batches.label_permutation`
chooses among them.
"""

from collections.abc import Callable, Mapping
from itertools import islice, permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refsys.data.store.columns import narrowed

# Relabelings that are kept: a ligand with many rotors has more, and only its first are tried.
LARGEST_COUNT = 256
# Pairs of atoms that the search looks at: some seconds, and then it keeps what it has.
_LARGEST_EFFORT = 200_000
# |Triple product| of unit bonds above which a centre is no plane: 0 in one, 0.77 in a tetrahedron.
_PLANAR = 0.2

# Centre and three of its neighbours -> the sign of their triple product, 0 close to a plane.
_Handedness = Mapping[tuple[int, int, int, int], int]


def component_automorphisms(
    elements: NDArray[np.uint8],
    bonds: NDArray[np.integer[Any]],
    positions: NDArray[np.floating[Any]],
    known: NDArray[np.bool_],
) -> NDArray[np.uint16]:
    """The relabelings of atoms that keep elements, bonds and handedness.

    Bonds are bonds of any order: forms in resonance are one. Handedness is kept where the reference
    conformer has one: if three neighbours of an atom are clearly not in a plane with it, then their
    images turn around its image in the same direction, or are close to a plane. Where an atom with
    three or more neighbours, or one of these, is not known, all of them stay in place.

    Args:
        elements: [atom] atomic numbers.
        bonds: [bond, 2] places of bonded atoms.
        positions: [atom, 3] reference conformer; of any unit.
        known: [atom] whether the conformer has the atom.

    Returns:
        [permutation, atom]: in row p, atom i takes the label of atom p[i]. Rows ascend, so that the
        first is the identity. At most `LARGEST_COUNT`, which then are no group.
    """
    import networkx  # type: ignore[import-untyped]

    count = len(elements)
    # Atoms are numbers here: the order in which the search meets them depends on no hash seed.
    graph = networkx.Graph()
    graph.add_nodes_from((atom, {"atom": atom}) for atom in range(count))
    graph.add_edges_from(np.asarray(bonds).reshape(-1, 2).tolist())
    neighbours = [sorted(graph[atom]) for atom in range(count)]
    colors = _colors(elements, neighbours, known)
    keeps_handedness = _handedness_test(_handedness(neighbours, positions, known), count)
    effort = 0

    def may_match(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
        nonlocal effort
        effort += 1
        if effort > _LARGEST_EFFORT or colors[one["atom"]] != colors[other["atom"]]:
            return False
        return keeps_handedness(matcher.core_1, one["atom"], other["atom"])

    matcher = networkx.algorithms.isomorphism.GraphMatcher(graph, graph, node_match=may_match)
    found = [
        [mapping[atom] for atom in range(count)]
        for mapping in islice(matcher.isomorphisms_iter(), LARGEST_COUNT)
    ]
    matcher.reset_recursion_limit()
    rows = narrowed([list(range(count)), *found], np.uint16, "atom of a residue")
    return np.unique(rows, axis=0)[:LARGEST_COUNT]


def _colors(
    elements: NDArray[np.uint8], neighbours: list[list[int]], known: NDArray[np.bool_]
) -> list[int]:
    """Atoms of different colours are not exchanged: the element, or one of its own if pinned."""
    colors = elements.tolist()
    for center, around in enumerate(neighbours):
        place = [center, *around]
        if len(around) >= 3 and not known[place].all():
            for atom in place:
                colors[atom] = -1 - atom
    return colors


def _handedness(
    neighbours: list[list[int]],
    positions: NDArray[np.floating[Any]],
    known: NDArray[np.bool_],
) -> _Handedness:
    """In every order of every three neighbours."""
    places = [
        (center, *three)
        for center, around in enumerate(neighbours)
        if known[[center, *around]].all()
        for three in permutations(around, 3)
    ]
    rows = np.array(places, np.int64).reshape(-1, 4)
    points = np.asarray(positions, np.float64)[rows]
    offsets = points[:, 1:] - points[:, :1]
    lengths = np.linalg.norm(offsets, axis=-1, keepdims=True)
    triple = np.linalg.det(offsets / np.maximum(lengths, np.finfo(np.float64).tiny))
    signs = np.where(np.abs(triple) > _PLANAR, np.sign(triple), 0).astype(int)
    return dict(zip(places, signs.tolist(), strict=True))


def _handedness_test(
    handedness: _Handedness, count: int
) -> Callable[[Mapping[int, int], int, int], bool]:
    """A test whether a partial relabeling with one more pair inverts nothing that is complete."""
    handed: list[list[tuple[int, int, int, int]]] = [[] for _ in range(count)]
    for place, sign in handedness.items():
        # The other orders of the three say the same.
        if sign and place[1] < place[2] < place[3]:
            for atom in place:
                handed[atom].append(place)

    def test(image: Mapping[int, int], atom: int, onto: int) -> bool:
        for place in handed[atom]:
            center, one, two, three = (onto if a == atom else image.get(a, -1) for a in place)
            if handedness[place] * handedness.get((center, one, two, three), 0) < 0:
                return False
        return True

    return test
