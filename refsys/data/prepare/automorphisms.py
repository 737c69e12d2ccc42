"""Automorphisms of a chemical component: relabelings that leave its chemistry unchanged.

Two carboxylate oxygens, or the two sides of a phenyl ring, have different names and equivalent
surroundings. Automorphisms are searched when a structure is prepared;
`refsys.data.batches.label_permutation` chooses among them.
"""

from collections.abc import Callable, Mapping
from itertools import islice, permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refsys.data.store.columns import narrowed

# Most automorphisms that are stored; a ligand with many rotors has more, and the others are lost.
LARGEST_COUNT = 256
# Pairs of atoms that the search compares before it stops with its results so far: some seconds.
_LARGEST_EFFORT = 200_000
# |Triple product| of unit bonds above which a centre is chiral: 0 if planar, 0.77 if tetrahedral.
_PLANAR = 0.2

# Centre and three of its neighbours -> the sign of their triple product, 0 close to a plane.
_Handedness = Mapping[tuple[int, int, int, int], int]


def component_automorphisms(
    elements: NDArray[np.uint8],
    bonds: NDArray[np.integer[Any]],
    positions: NDArray[np.floating[Any]],
    has_position: NDArray[np.bool_],
) -> NDArray[np.uint16]:
    """Return the relabelings of atoms that preserve elements, bonds and handedness.

    Bond orders are ignored, so that resonance forms are equal. Handedness is that of the reference
    conformer: if three neighbours of an atom are clearly not in a plane with it, their images must
    turn around its image in the same direction, or be close to a plane. If an atom with three or
    more neighbours, or one of these neighbours, has no position, all of them are fixed.

    Args:
        elements: [atom] atomic numbers.
        bonds: [bond, 2] indices of bonded atoms.
        positions: [atom, 3] reference conformer, in any unit.
        has_position: [atom] whether the conformer has the atom.

    Returns:
        [permutation, atom]: in row p, atom i takes the label of atom p[i]. Rows ascend, so that the
        first is the identity. At most `LARGEST_COUNT` rows, which need not form a group then.
    """
    import networkx  # type: ignore[import-untyped]

    count = len(elements)
    # Nodes are integers, so that the order of the search does not depend on the hash seed.
    graph = networkx.Graph()
    graph.add_nodes_from((atom, {"atom": atom}) for atom in range(count))
    graph.add_edges_from(np.asarray(bonds).reshape(-1, 2).tolist())
    neighbours = [sorted(graph[atom]) for atom in range(count)]
    colors = _colors(elements, neighbours, has_position)
    keeps_handedness = _handedness_test(_handedness(neighbours, positions, has_position), count)
    effort = 0

    def may_match(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
        nonlocal effort
        effort += 1
        if effort > _LARGEST_EFFORT or colors[one["atom"]] != colors[other["atom"]]:
            return False
        return keeps_handedness(matcher.core_1, one["atom"], other["atom"])

    matcher = networkx.algorithms.isomorphism.GraphMatcher(graph, graph, node_match=may_match)
    automorphisms = [
        [mapping[atom] for atom in range(count)]
        for mapping in islice(matcher.isomorphisms_iter(), LARGEST_COUNT)
    ]
    matcher.reset_recursion_limit()
    rows = narrowed([list(range(count)), *automorphisms], np.uint16, "atom of a residue")
    return np.unique(rows, axis=0)[:LARGEST_COUNT]


def _colors(
    elements: NDArray[np.uint8], neighbours: list[list[int]], has_position: NDArray[np.bool_]
) -> list[int]:
    """Return the colour of each atom: its element, or a unique one if it is fixed.

    Atoms of different colours are not exchanged.
    """
    colors = elements.tolist()
    for center, around in enumerate(neighbours):
        atoms = [center, *around]
        if len(around) >= 3 and not has_position[atoms].all():
            for atom in atoms:
                colors[atom] = -1 - atom
    return colors


def _handedness(
    neighbours: list[list[int]],
    positions: NDArray[np.floating[Any]],
    has_position: NDArray[np.bool_],
) -> _Handedness:
    """Return the handedness of each centre, for every ordered triple of its neighbours."""
    centers = [
        (center, *three)
        for center, around in enumerate(neighbours)
        if has_position[[center, *around]].all()
        for three in permutations(around, 3)
    ]
    rows = np.array(centers, np.int64).reshape(-1, 4)
    points = np.asarray(positions, np.float64)[rows]
    offsets = points[:, 1:] - points[:, :1]
    lengths = np.linalg.norm(offsets, axis=-1, keepdims=True)
    triple = np.linalg.det(offsets / np.maximum(lengths, np.finfo(np.float64).tiny))
    signs = np.where(np.abs(triple) > _PLANAR, np.sign(triple), 0).astype(int)
    return dict(zip(centers, signs.tolist(), strict=True))


def _handedness_test(
    handedness: _Handedness, count: int
) -> Callable[[Mapping[int, int], int, int], bool]:
    """Return a test that one more pair of a partial relabeling inverts no complete centre."""
    handed: list[list[tuple[int, int, int, int]]] = [[] for _ in range(count)]
    for neighbourhood, sign in handedness.items():
        # The other orders of the three neighbours are equivalent.
        if sign and neighbourhood[1] < neighbourhood[2] < neighbourhood[3]:
            for atom in neighbourhood:
                handed[atom].append(neighbourhood)

    def test(image: Mapping[int, int], atom: int, onto: int) -> bool:
        for neighbourhood in handed[atom]:
            center, one, two, three = (
                onto if a == atom else image.get(a, -1) for a in neighbourhood
            )
            if handedness[neighbourhood] * handedness.get((center, one, two, three), 0) < 0:
                return False
        return True

    return test
