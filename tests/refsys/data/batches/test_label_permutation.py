"""Permutation of labels: recovery of exchanges, comparison with brute force, and invariances."""

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from refsys.data.batches.label_permutation import Symmetries, permuted_rows
from refsys.errors import ArgumentError

# A residue: backbone, centre, two equivalent oxygens, a ring of which two sides are equivalent.
PLAIN, ACID, RING = 3, 4, 6
TABLES = (np.array([[0, 1, 2, 3], [0, 1, 3, 2]]), np.array([range(6), [0, 1, 3, 2, 5, 4]]))
ATOMS = (ACID, RING, PLAIN)
SEEDS = st.integers(0, 2**32 - 1)


def symmetries(*groups, seed=0, lost=0.0, residues=6):
    """Return a structure of copies of chains, in random order and at random positions.

    Args:
        groups: Number of copies of each chain; a negative number counts copies of a lone atom.
        seed: Seed of everything random.
        lost: Fraction of the atoms that is not resolved.
        residues: Number of residues of a chain.
    """
    rng = np.random.default_rng(seed)
    kinds = {
        group: rng.integers(0, 3, residues) if copies > 0 else None
        for group, copies in enumerate(groups)
    }
    order = rng.permutation(np.repeat(range(len(groups)), np.abs(groups)))
    chain_of_atom, residue_of_atom, center, symmetry, position = [], [], [], [], []
    templates = {}
    for chain, group in enumerate(order):
        sizes = [1] if kinds[group] is None else [ATOMS[kind] for kind in kinds[group]]
        for size in sizes:
            residue_of_atom += [len(symmetry)] * size
            center += [size == 1 or atom == 1 for atom in range(size)]
            symmetry.append(-1 if size in {1, PLAIN} else ATOMS.index(size))
        if group not in templates:
            steps = np.repeat(3.8 * unit(rng, len(sizes)).cumsum(axis=0), sizes, axis=0)
            templates[group] = steps + 1.5 * unit(rng, len(steps))
        template = templates[group]
        chain_of_atom += [chain] * len(template)
        turn = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix()
        position.append(template @ turn + 20 * rng.normal(size=3))
    return Symmetries(
        chain_of_atom=np.array(chain_of_atom, np.int32),
        residue_of_atom=np.array(residue_of_atom, np.int32),
        chain_group=order.astype(np.int32),
        position=np.concatenate(position).astype(np.float32),
        resolved=rng.random(len(center)) >= lost,
        center=np.array(center),
        polymer=np.array([kinds[group] is not None for group in order]),
        residue_symmetry=np.array(symmetry, np.int32),
        symmetries=TABLES,
    )


def unit(rng, count):
    vectors = rng.normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def starts(structure):
    return np.searchsorted(structure.chain_of_atom, range(len(structure.chain_group)))


def all_rows(structure):
    return np.arange(len(structure.chain_of_atom))


def exchanged(structure, rows, images):
    """Return the rows after replacing each chain by its image."""
    begins = starts(structure)
    chains = structure.chain_of_atom[rows]
    return rows - begins[chains] + begins[np.array(images)[chains]]


def random_images(structure, rng):
    """Return a random permutation of the copies."""
    images = np.arange(len(structure.chain_group))
    for group in np.unique(structure.chain_group):
        members = np.flatnonzero(structure.chain_group == group)
        images[members] = rng.permutation(members)
    return images


def swapped(structure, rows, rng):
    """Return the rows after exchanging atoms in half of the complete symmetric residues."""
    rows = rows.copy()
    for residue in np.unique(structure.residue_of_atom[rows]):
        atoms = np.flatnonzero(structure.residue_of_atom[rows] == residue)
        number = structure.residue_symmetry[residue]
        whole = len(atoms) == (structure.residue_of_atom == residue).sum()
        if number >= 0 and whole and rng.random() < 0.5:
            rows[atoms] = rows[atoms][TABLES[number][1]]
    return rows


def moved(positions, seed=0):
    turn = Rotation.random(random_state=seed % 2**31).as_matrix()
    return positions @ turn + np.random.default_rng(seed).normal(size=3) * 100


def crop(structure, rng, share=0.6):
    """Return rows of complete and cut residues of all chains."""
    edges = np.flatnonzero(rng.random(len(structure.chain_of_atom)) < 0.1)
    runs = np.searchsorted(edges, all_rows(structure))
    return np.flatnonzero(rng.random(len(edges) + 1)[runs] < share)


def noisy_crop(copies, noise, lost, seed):
    """Return a structure, a crop of it, and a prediction of it with exchanged copies."""
    rng = np.random.default_rng(seed)
    structure = symmetries(*copies, seed=seed, lost=lost, residues=12)
    rows = crop(structure, rng)
    labels = exchanged(structure, rows, random_images(structure, rng))
    return structure, rows, structure.position[labels] + noise * rng.normal(size=(len(rows), 3))


def score(predicted, labels, structure):
    """Return the mean squared distance of the points that the permutation compares.

    These are the resolved centre atoms of each chain, or all its resolved atoms without any.
    """
    points = []
    for chain in np.unique(structure.chain_of_atom[labels]):
        atoms = np.flatnonzero(structure.chain_of_atom[labels] == chain)
        atoms = atoms[structure.resolved[labels[atoms]]]
        centers = atoms[structure.center[labels[atoms]]]
        points.extend(centers if len(centers) else atoms)
    if not points:
        return np.inf
    x, y = predicted[points], structure.position[labels[points]].astype(float)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    if len(points) == 1:
        return 0.0
    _, distance = Rotation.align_vectors(x, y)
    return distance**2 / len(points)


def without_residue_swaps(structure):
    return replace(structure, residue_symmetry=np.full_like(structure.residue_symmetry, -1))


COPIES = [(2,), (3,), (4,), (1, 2), (2, 2), (3, 2), (4, 4), (2, -4), (1, -3, 3)]


@pytest.mark.parametrize("copies", COPIES, ids=str)
@pytest.mark.parametrize("lost", [0.0, 0.3])
def test_labels_stay_for_a_prediction_equal_to_them(copies, lost):
    structure = symmetries(*copies, lost=lost)
    rows = all_rows(structure)
    result = permuted_rows(moved(structure.position), rows, structure)
    np.testing.assert_array_equal(result, rows)


@pytest.mark.parametrize("copies", COPIES, ids=str)
@pytest.mark.parametrize("part", ["whole", "crop"])
@pytest.mark.parametrize("seed", range(5))
def test_permutation_recovers_exchanged_chains_and_atoms(copies, part, seed):
    rng = np.random.default_rng(seed)
    structure = symmetries(*copies, seed=seed, residues=12)
    rows = all_rows(structure) if part == "whole" else crop(structure, rng)
    labels = swapped(structure, exchanged(structure, rows, random_images(structure, rng)), rng)
    predicted = moved(structure.position[labels], seed) + 0.1 * rng.normal(size=(len(rows), 3))
    np.testing.assert_array_equal(permuted_rows(predicted, rows, structure), labels)


@pytest.mark.parametrize("seed", range(10))
def test_permutation_ignores_positions_of_unresolved_atoms(seed):
    rng = np.random.default_rng(seed)
    structure = symmetries(3, 2, -2, seed=seed, residues=12)
    images = random_images(structure, rng)
    labels = swapped(structure, exchanged(structure, all_rows(structure), images), rng)
    predicted = moved(structure.position[labels], seed) + 0.1 * rng.normal(size=(len(labels), 3))
    # Lone atoms stay resolved: an exchange of unresolved ones cannot be recovered.
    resolved = (rng.random(len(labels)) > 0.3) | ~structure.polymer[structure.chain_of_atom]
    results = []
    for value in (np.nan, 0.0, 1e30):
        position = np.where(resolved[:, None], structure.position, value)
        altered = replace(structure, resolved=resolved, position=position)
        results.append(permuted_rows(predicted, all_rows(structure), altered))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    # Labels that differ are of the right chain and of unresolved atoms.
    chain = structure.chain_of_atom
    np.testing.assert_array_equal(chain[results[0]], chain[labels])
    error = np.linalg.norm(structure.position[results[0]] - structure.position[labels], axis=1)
    assert not error[resolved[results[0]] & resolved[labels]].any()


@pytest.mark.filterwarnings("ignore:Optimal rotation is not uniquely")
@settings(max_examples=60)
@given(
    st.sampled_from([(2,), (3,), (2, 2), (1, 3), (2, -2), (1, -3)]),
    st.sampled_from([0.1, 5.0, 30.0]),
    st.sampled_from([0.0, 0.4]),
    SEEDS,
)
def test_permutation_score_is_bounded_by_brute_force(copies, noise, lost, seed):
    rng = np.random.default_rng(seed)
    structure = without_residue_swaps(symmetries(*copies, seed=seed, lost=lost))
    rows = all_rows(structure)
    labels = exchanged(structure, rows, random_images(structure, rng))
    predicted = moved(structure.position[labels], seed) + noise * rng.normal(size=(len(rows), 3))
    result = score(predicted, permuted_rows(predicted, rows, structure), structure)
    groups = structure.chain_group
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    every = []
    for orders in product(*(permutations(chains) for chains in members)):
        images = np.arange(len(groups))
        for chains, order in zip(members, orders, strict=True):
            images[chains] = order
        every.append(score(predicted, exchanged(structure, rows, images), structure))
    assert result >= min(every) - 1e-6
    assert result <= score(predicted, rows, structure) + 1e-6
    if noise < 1 and not lost:
        assert result == pytest.approx(min(every), abs=1e-6)


@settings(max_examples=60)
@given(st.sampled_from(COPIES), st.sampled_from([0.1, 30.0]), st.sampled_from([0.0, 0.5]), SEEDS)
def test_permutation_is_invariant_to_rigid_motion(copies, noise, lost, seed):
    structure, rows, predicted = noisy_crop(copies, noise, lost, seed)
    result = permuted_rows(predicted, rows, structure)
    np.testing.assert_array_equal(permuted_rows(moved(predicted, seed), rows, structure), result)


@settings(max_examples=60)
@given(st.sampled_from(COPIES), st.sampled_from([0.1, 30.0]), st.sampled_from([0.0, 0.9]), SEEDS)
def test_permutation_is_a_valid_relabeling(copies, noise, lost, seed):
    structure, rows, predicted = noisy_crop(copies, noise, lost, seed)
    result = permuted_rows(predicted, rows, structure)
    assert len(np.unique(result)) == len(rows)
    old, new = structure.chain_of_atom[rows], structure.chain_of_atom[result]
    np.testing.assert_array_equal(structure.chain_group[old], structure.chain_group[new])
    assert len({*zip(old.tolist(), new.tolist(), strict=True)}) == len(np.unique(old))
    # Atoms are exchanged only in complete residues, by a row of their table.
    begins = starts(structure)
    old, new = rows - begins[old], result - begins[new]
    residues = structure.residue_of_atom[rows]
    for residue in np.unique(residues):
        in_residue = residues == residue
        number = structure.residue_symmetry[residue]
        whole = in_residue.sum() == (structure.residue_of_atom == residue).sum()
        table = TABLES[number] if whole and number >= 0 else np.arange(in_residue.sum())[None]
        assert (old[in_residue][table] == new[in_residue]).all(axis=1).any()


@settings(max_examples=60)
@given(st.sampled_from([0.3, 3.0]), st.sampled_from([0.0, 0.5]), SEEDS)
def test_atom_permutation_minimizes_the_error_of_each_residue(noise, lost, seed):
    rng = np.random.default_rng(seed)
    structure = symmetries(1, seed=seed, lost=lost)
    rows = all_rows(structure)
    labels = swapped(structure, rows, rng)
    predicted = moved(structure.position[labels], seed) + noise * rng.normal(size=(len(rows), 3))
    result = permuted_rows(predicted, rows, structure)
    resolved = structure.resolved
    position = structure.position.astype(float)
    middle, onto = position[resolved].mean(axis=0), predicted[resolved].mean(axis=0)
    turn, _ = Rotation.align_vectors(predicted[resolved] - onto, position[resolved] - middle)
    aligned = turn.apply(position - middle) + onto

    def errors(residue_rows, residue_labels):
        return (
            np.square(predicted[residue_rows] - aligned[residue_labels]).sum(axis=1)
            @ resolved[residue_labels]
        )

    for residue, number in enumerate(structure.residue_symmetry):
        atoms = rows[structure.residue_of_atom == residue]
        every = [errors(atoms, atoms[row]) for row in TABLES[number]] if number >= 0 else [0.0]
        expected = atoms[TABLES[number][np.argmin(np.round(every, 6))]] if number >= 0 else atoms
        assert result[atoms].tolist() == expected.tolist()


@pytest.mark.parametrize("copies", [(-6,), (-4, -3), (-2, -2, -2)], ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_permutation_of_lone_atoms_is_independent_of_rounding(copies, seed):
    """A single pair of lone atoms does not determine a rotation."""
    rng = np.random.default_rng(seed)
    structure = symmetries(*copies, seed=seed)
    rows = all_rows(structure)
    labels = exchanged(structure, rows, random_images(structure, rng))
    predicted = structure.position[labels] + 5 * rng.normal(size=(len(rows), 3))
    result = permuted_rows(predicted, rows, structure)
    assert score(predicted, result, structure) <= score(predicted, rows, structure) + 1e-6
    for motion in range(5):
        again = permuted_rows(moved(predicted, motion), rows, structure)
        np.testing.assert_array_equal(again, result)


@pytest.mark.parametrize("order", [2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_labels_stay_when_an_exchange_improves_nothing(order, seed):
    """Rotating the labels around a ring of copies does not improve the fit."""
    rng = np.random.default_rng(seed)
    structure = without_residue_swaps(symmetries(order, seed=seed))
    size = len(structure.chain_of_atom) // order
    turns = Rotation.from_rotvec([[0, 0, 2 * np.pi * k / order] for k in range(order)])
    position = np.concatenate([turn.apply(structure.position[:size]) for turn in turns])
    ring = replace(structure, position=position)
    predicted = moved(position, seed) + rng.normal(size=position.shape)
    result = permuted_rows(predicted, all_rows(ring), ring)
    np.testing.assert_array_equal(result, all_rows(ring))


@pytest.mark.parametrize("copies", [(2,), (3, 2), (1, 4), (4, -3)], ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_permutation_is_independent_of_the_order_of_copies(copies, seed):
    """Renaming the copies of the structure does not change the positions of the labels."""
    structure, rows, predicted = noisy_crop(copies, 0.5, 0.2, seed)
    rng = np.random.default_rng(seed + 1)
    names = exchanged(structure, all_rows(structure), random_images(structure, rng))
    renamed = replace(
        structure, position=structure.position[names], resolved=structure.resolved[names]
    )
    one, other = (permuted_rows(predicted, rows, s) for s in (structure, renamed))
    np.testing.assert_array_equal(structure.resolved[one], renamed.resolved[other])
    np.testing.assert_array_equal(structure.position[one], renamed.position[other])


def test_chains_without_centres_are_compared_by_their_other_atoms():
    rng = np.random.default_rng(0)
    structure = symmetries(1, 3, residues=12)
    structure = replace(
        structure,
        resolved=~(structure.center & (structure.chain_group == 1)[structure.chain_of_atom]),
    )
    labels = exchanged(structure, all_rows(structure), random_images(structure, rng))
    assert (labels != all_rows(structure)).any()
    result = permuted_rows(structure.position[labels], all_rows(structure), structure)
    np.testing.assert_array_equal(result, labels)


def test_chains_without_common_atoms_are_compared_by_their_centroids():
    """The crop's part of the chain is resolved in one of the three copies alone."""
    structure = symmetries(1, 3, residues=12, seed=3)
    copies = np.flatnonzero(structure.chain_group == 1)
    chain = structure.chain_of_atom
    atom_of_chain = all_rows(structure) - starts(structure)[chain]
    start = atom_of_chain < 20
    resolved = ~(start & np.isin(chain, copies[1:]))
    rows = np.flatnonzero(start | (structure.chain_group[chain] == 0))
    images = np.arange(4)
    images[copies] = np.roll(copies, 1)
    labels = exchanged(structure, rows, images)
    result = permuted_rows(
        moved(structure.position[labels]), rows, replace(structure, resolved=resolved)
    )
    np.testing.assert_array_equal(chain[result], chain[labels])


def test_unresolved_copies_keep_their_labels():
    structure = symmetries(5, residues=12)
    chain = structure.chain_of_atom
    resolved = np.isin(chain, [0, 1])
    labels = exchanged(structure, all_rows(structure), [1, 0, 2, 3, 4])
    predicted = moved(structure.position[labels])
    result = permuted_rows(predicted, all_rows(structure), replace(structure, resolved=resolved))
    np.testing.assert_array_equal(chain[result], chain[labels])


@pytest.mark.parametrize("why", ["ligand", "few tokens", "more copies"])
@pytest.mark.parametrize("seed", range(8))
def test_anchor_is_the_most_reliable_polymer(why, seed):
    """The chains that are no anchors are rotated about their own centres."""
    rng = np.random.default_rng(seed)
    other_copies, copies = (3, 2) if why == "more copies" else (1, 2)
    structure = symmetries(other_copies, copies, residues=12, seed=seed)
    chain, group = structure.chain_of_atom, structure.chain_group
    images = np.arange(len(group))
    anchors = np.flatnonzero(group == 1)
    images[anchors] = anchors[::-1]
    rows = all_rows(structure)
    if why == "ligand":
        structure = replace(structure, polymer=group == 1)
    if why == "few tokens":
        tokens = np.cumsum(structure.center)
        first = tokens[starts(structure)][chain]
        rows = rows[(group[chain] == 1) | (tokens - first < 3)]
    labels = exchanged(structure, rows, images)
    predicted = structure.position[labels].astype(float)
    for other in np.flatnonzero(group == 0):
        in_chain = chain[labels] == other
        middle = predicted[in_chain].mean(axis=0)
        turn = Rotation.from_rotvec(3 * unit(rng, 1)[0])
        predicted[in_chain] = turn.apply(predicted[in_chain] - middle) + middle
    result = permuted_rows(predicted, rows, structure)
    np.testing.assert_array_equal(chain[result], chain[labels])


def test_permutation_distinguishes_mirror_images():
    """Two ions lie on either side of a flat chain, which a reflection would exchange."""
    flat = np.array([[0, 0, 0], [4, 0, 0], [4, 7, 0], [9, 9, 0], [1, 2, 3], [1, 2, -3.0]])
    structure = Symmetries(
        chain_of_atom=np.array([0, 0, 0, 0, 1, 2], np.int32),
        residue_of_atom=np.arange(6, dtype=np.int32),
        chain_group=np.array([0, 1, 1], np.int32),
        position=flat,
        resolved=np.ones(6, bool),
        center=np.ones(6, bool),
        polymer=np.array([True, False, False]),
        residue_symmetry=np.full(6, -1, np.int32),
        symmetries=(),
    )
    result = permuted_rows(moved(flat * [1, 1, -1]), np.arange(6), structure)
    assert result.tolist() == [0, 1, 2, 3, 5, 4]


@pytest.mark.parametrize("crop_rows", [[], [0], [3, 9], list(range(10, 30))], ids=len)
@pytest.mark.parametrize("resolved", ["none", "one", "two", "first chain", "not the first", "all"])
@pytest.mark.parametrize("prediction", ["zero", "line", "random", "huge", "nan"])
def test_permutation_of_degenerate_inputs_is_valid(crop_rows, resolved, prediction):
    structure = symmetries(3, -2)
    rows = np.array(crop_rows or all_rows(structure), np.int64)
    count = len(structure.chain_of_atom)
    mask = {
        "none": np.zeros(count, bool),
        "one": np.arange(count) == 9,
        "two": np.isin(np.arange(count), [9, 10]),
        "first chain": structure.chain_of_atom == 0,
        "not the first": structure.chain_of_atom != 0,
        "all": np.ones(count, bool),
    }[resolved]
    predicted = {
        "zero": np.zeros((len(rows), 3)),
        "line": np.arange(len(rows))[:, None] * np.ones(3),
        "random": np.random.default_rng(0).normal(size=(len(rows), 3)),
        "huge": 1e30 * np.random.default_rng(0).normal(size=(len(rows), 3)),
        "nan": np.full((len(rows), 3), np.nan),
    }[prediction]
    structure = replace(structure, resolved=mask)
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        result = permuted_rows(predicted.astype(np.float32), rows, structure)
    assert len(np.unique(result)) == len(rows)
    groups = structure.chain_group[structure.chain_of_atom]
    np.testing.assert_array_equal(groups[result], groups[rows])
    if prediction == "nan" or resolved == "none":
        np.testing.assert_array_equal(result, rows)


def test_permutation_of_empty_crop_is_empty():
    assert permuted_rows(np.empty((0, 3)), np.empty(0, np.int64), symmetries(2)).shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chain_of_atom": np.array([1, 0], np.int32)}, "chain_of_atom descends"),
        ({"residue_of_atom": np.array([1, 0], np.int32)}, "residue_of_atom descends"),
        ({"chain_of_atom": np.array([0, 0], np.int32)}, "chain 1 has 0 atoms, its copy 0 has 2"),
        ({"position": np.full((2, 3), np.nan)}, "atom 0 is at"),
        ({"symmetries": (np.array([[0, 1]]),)}, "residue 0 has 1 atoms, its symmetries are of 2"),
    ],
)
def test_inconsistent_symmetries_are_refused(change, message):
    two = Symmetries(
        chain_of_atom=np.array([0, 1], np.int32),
        residue_of_atom=np.array([0, 1], np.int32),
        chain_group=np.array([0, 0], np.int32),
        position=np.zeros((2, 3)),
        resolved=np.ones(2, bool),
        center=np.ones(2, bool),
        polymer=np.ones(2, bool),
        residue_symmetry=np.zeros(2, np.int32),
        symmetries=(np.array([[0]]),),
    )
    with pytest.raises(ArgumentError, match=message):
        replace(two, **change)
