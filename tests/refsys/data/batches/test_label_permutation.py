"""Exchanging labels: what is exchanged is found, against every assignment, and its laws."""

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
    """A structure of so many copies of so many chains, in a random order and at random places.

    Args:
        groups: Copies of each chain; one that is negative has that many copies of a lone atom.
        seed: Of everything random.
        lost: Which part of the atoms is not resolved.
        residues: In a chain.
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
    """The rows once each chain is replaced by its image."""
    begins = starts(structure)
    chains = structure.chain_of_atom[rows]
    return rows - begins[chains] + begins[np.array(images)[chains]]


def random_images(structure, rng):
    """A random exchange of copies."""
    images = np.arange(len(structure.chain_group))
    for group in np.unique(structure.chain_group):
        members = np.flatnonzero(structure.chain_group == group)
        images[members] = rng.permutation(members)
    return images


def swapped(structure, rows, rng):
    """The rows once half of the whole residues with a symmetry have their second labels."""
    rows = rows.copy()
    for residue in np.unique(structure.residue_of_atom[rows]):
        here = np.flatnonzero(structure.residue_of_atom[rows] == residue)
        number = structure.residue_symmetry[residue]
        whole = len(here) == (structure.residue_of_atom == residue).sum()
        if number >= 0 and whole and rng.random() < 0.5:
            rows[here] = rows[here][TABLES[number][1]]
    return rows


def moved(positions, seed=0):
    turn = Rotation.random(random_state=seed % 2**31).as_matrix()
    return positions @ turn + np.random.default_rng(seed).normal(size=3) * 100


def crop(structure, rng, share=0.6):
    """Whole and cut residues of all chains."""
    edges = np.flatnonzero(rng.random(len(structure.chain_of_atom)) < 0.1)
    runs = np.searchsorted(edges, all_rows(structure))
    return np.flatnonzero(rng.random(len(edges) + 1)[runs] < share)


def noisy_crop(copies, noise, lost, seed):
    """A structure, a crop of it, and a prediction of the crop in which copies are exchanged."""
    rng = np.random.default_rng(seed)
    structure = symmetries(*copies, seed=seed, lost=lost, residues=12)
    rows = crop(structure, rng)
    labels = exchanged(structure, rows, random_images(structure, rng))
    return structure, rows, structure.position[labels] + noise * rng.normal(size=(len(rows), 3))


def score(predicted, labels, structure):
    """Mean squared distance of resolved centre atoms, chain by chain all atoms if there is none."""
    chosen = []
    for chain in np.unique(structure.chain_of_atom[labels]):
        here = np.flatnonzero(structure.chain_of_atom[labels] == chain)
        here = here[structure.resolved[labels[here]]]
        centers = here[structure.center[labels[here]]]
        chosen.extend(centers if len(centers) else here)
    if not chosen:
        return np.inf
    x, y = predicted[chosen], structure.position[labels[chosen]].astype(float)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    if len(chosen) == 1:
        return 0.0
    _, distance = Rotation.align_vectors(x, y)
    return distance**2 / len(chosen)


def without_residue_swaps(structure):
    return replace(structure, residue_symmetry=np.full_like(structure.residue_symmetry, -1))


COPIES = [(2,), (3,), (4,), (1, 2), (2, 2), (3, 2), (4, 4), (2, -4), (1, -3, 3)]


@pytest.mark.parametrize("copies", COPIES, ids=str)
@pytest.mark.parametrize("lost", [0.0, 0.3])
def test_a_prediction_like_its_label_exchanges_nothing(copies, lost):
    structure = symmetries(*copies, lost=lost)
    rows = all_rows(structure)
    found = permuted_rows(moved(structure.position), rows, structure)
    np.testing.assert_array_equal(found, rows)


@pytest.mark.parametrize("copies", COPIES, ids=str)
@pytest.mark.parametrize("part", ["whole", "crop"])
@pytest.mark.parametrize("seed", range(5))
def test_what_was_exchanged_is_found(copies, part, seed):
    rng = np.random.default_rng(seed)
    structure = symmetries(*copies, seed=seed, residues=12)
    rows = all_rows(structure) if part == "whole" else crop(structure, rng)
    labels = swapped(structure, exchanged(structure, rows, random_images(structure, rng)), rng)
    predicted = moved(structure.position[labels], seed) + 0.1 * rng.normal(size=(len(rows), 3))
    np.testing.assert_array_equal(permuted_rows(predicted, rows, structure), labels)


@pytest.mark.parametrize("seed", range(10))
def test_unresolved_atoms_hide_no_exchange_and_their_values_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    structure = symmetries(3, 2, -2, seed=seed, residues=12)
    images = random_images(structure, rng)
    labels = swapped(structure, exchanged(structure, all_rows(structure), images), rng)
    predicted = moved(structure.position[labels], seed) + 0.1 * rng.normal(size=(len(labels), 3))
    # Not the lone atoms: without them nobody could say which is which.
    resolved = (rng.random(len(labels)) > 0.3) | ~structure.polymer[structure.chain_of_atom]
    found = []
    for value in (np.nan, 0.0, 1e30):
        position = np.where(resolved[:, None], structure.position, value)
        known = replace(structure, resolved=resolved, position=position)
        found.append(permuted_rows(predicted, all_rows(structure), known))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    # Where a residue's labels differ, they are of the right chain and stand for unresolved atoms.
    chain = structure.chain_of_atom
    np.testing.assert_array_equal(chain[found[0]], chain[labels])
    error = np.linalg.norm(structure.position[found[0]] - structure.position[labels], axis=1)
    assert not error[resolved[found[0]] & resolved[labels]].any()


@pytest.mark.filterwarnings("ignore:Optimal rotation is not uniquely")
@settings(max_examples=60)
@given(
    st.sampled_from([(2,), (3,), (2, 2), (1, 3), (2, -2), (1, -3)]),
    st.sampled_from([0.1, 5.0, 30.0]),
    st.sampled_from([0.0, 0.4]),
    SEEDS,
)
def test_against_every_assignment(copies, noise, lost, seed):
    rng = np.random.default_rng(seed)
    structure = without_residue_swaps(symmetries(*copies, seed=seed, lost=lost))
    rows = all_rows(structure)
    labels = exchanged(structure, rows, random_images(structure, rng))
    predicted = moved(structure.position[labels], seed) + noise * rng.normal(size=(len(rows), 3))
    found = score(predicted, permuted_rows(predicted, rows, structure), structure)
    groups = structure.chain_group
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    every = []
    for orders in product(*(permutations(chains) for chains in members)):
        images = np.arange(len(groups))
        for chains, order in zip(members, orders, strict=True):
            images[chains] = order
        every.append(score(predicted, exchanged(structure, rows, images), structure))
    assert found >= min(every) - 1e-6
    assert found <= score(predicted, rows, structure) + 1e-6
    if noise < 1 and not lost:
        assert found == pytest.approx(min(every), abs=1e-6)


@settings(max_examples=60)
@given(st.sampled_from(COPIES), st.sampled_from([0.1, 30.0]), st.sampled_from([0.0, 0.5]), SEEDS)
def test_motion_of_the_prediction_changes_nothing(copies, noise, lost, seed):
    structure, rows, predicted = noisy_crop(copies, noise, lost, seed)
    found = permuted_rows(predicted, rows, structure)
    np.testing.assert_array_equal(permuted_rows(moved(predicted, seed), rows, structure), found)


@settings(max_examples=60)
@given(st.sampled_from(COPIES), st.sampled_from([0.1, 30.0]), st.sampled_from([0.0, 0.9]), SEEDS)
def test_the_result_is_a_valid_relabeling(copies, noise, lost, seed):
    structure, rows, predicted = noisy_crop(copies, noise, lost, seed)
    found = permuted_rows(predicted, rows, structure)
    assert len(np.unique(found)) == len(rows)
    old, new = structure.chain_of_atom[rows], structure.chain_of_atom[found]
    np.testing.assert_array_equal(structure.chain_group[old], structure.chain_group[new])
    assert len({*zip(old.tolist(), new.tolist(), strict=True)}) == len(np.unique(old))
    # One atom of a chain is another only in a whole residue, and then as its table says.
    begins = starts(structure)
    old, new = rows - begins[old], found - begins[new]
    residues = structure.residue_of_atom[rows]
    for residue in np.unique(residues):
        here = residues == residue
        number = structure.residue_symmetry[residue]
        whole = here.sum() == (structure.residue_of_atom == residue).sum()
        table = TABLES[number] if whole and number >= 0 else np.arange(here.sum())[None]
        assert (old[here][table] == new[here]).all(axis=1).any()


@settings(max_examples=60)
@given(st.sampled_from([0.3, 3.0]), st.sampled_from([0.0, 0.5]), SEEDS)
def test_each_residue_has_the_best_of_its_relabelings(noise, lost, seed):
    rng = np.random.default_rng(seed)
    structure = symmetries(1, seed=seed, lost=lost)
    rows = all_rows(structure)
    labels = swapped(structure, rows, rng)
    predicted = moved(structure.position[labels], seed) + noise * rng.normal(size=(len(rows), 3))
    found = permuted_rows(predicted, rows, structure)
    known = structure.resolved
    position = structure.position.astype(float)
    middle, onto = position[known].mean(axis=0), predicted[known].mean(axis=0)
    turn, _ = Rotation.align_vectors(predicted[known] - onto, position[known] - middle)
    aligned = turn.apply(position - middle) + onto

    def errors(residue_rows, residue_labels):
        return (
            np.square(predicted[residue_rows] - aligned[residue_labels]).sum(axis=1)
            @ known[residue_labels]
        )

    for residue, number in enumerate(structure.residue_symmetry):
        here = rows[structure.residue_of_atom == residue]
        every = [errors(here, here[row]) for row in TABLES[number]] if number >= 0 else [0.0]
        expected = here[TABLES[number][np.argmin(np.round(every, 6))]] if number >= 0 else here
        assert found[here].tolist() == expected.tolist()


@pytest.mark.parametrize("copies", [(-6,), (-4, -3), (-2, -2, -2)], ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_turns_that_an_anchor_leaves_open_are_not_left_to_rounding(copies, seed):
    """Of lone atoms alone, no pair says how the others lie."""
    rng = np.random.default_rng(seed)
    structure = symmetries(*copies, seed=seed)
    rows = all_rows(structure)
    labels = exchanged(structure, rows, random_images(structure, rng))
    predicted = structure.position[labels] + 5 * rng.normal(size=(len(rows), 3))
    found = permuted_rows(predicted, rows, structure)
    assert score(predicted, found, structure) <= score(predicted, rows, structure) + 1e-6
    for motion in range(5):
        again = permuted_rows(moved(predicted, motion), rows, structure)
        np.testing.assert_array_equal(again, found)


@pytest.mark.parametrize("order", [2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_an_exchange_that_improves_nothing_is_not_made(order, seed):
    """In a ring of copies those that follow one another are no better than those before."""
    rng = np.random.default_rng(seed)
    structure = without_residue_swaps(symmetries(order, seed=seed))
    size = len(structure.chain_of_atom) // order
    turns = Rotation.from_rotvec([[0, 0, 2 * np.pi * k / order] for k in range(order)])
    position = np.concatenate([turn.apply(structure.position[:size]) for turn in turns])
    ring = replace(structure, position=position)
    predicted = moved(position, seed) + rng.normal(size=position.shape)
    found = permuted_rows(predicted, all_rows(ring), ring)
    np.testing.assert_array_equal(found, all_rows(ring))


@pytest.mark.parametrize("copies", [(2,), (3, 2), (1, 4), (4, -3)], ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_names_of_copies_decide_nothing(copies, seed):
    """The structure's copies change names: labels are at the same places as before."""
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
    found = permuted_rows(structure.position[labels], all_rows(structure), structure)
    np.testing.assert_array_equal(found, labels)


def test_chains_without_common_atoms_are_compared_by_their_centroids():
    """Of two copies the crop has a part that is resolved in neither, of a third one that is."""
    structure = symmetries(1, 3, residues=12, seed=3)
    copies = np.flatnonzero(structure.chain_group == 1)
    chain = structure.chain_of_atom
    place = all_rows(structure) - starts(structure)[chain]
    start = place < 20
    resolved = ~(start & np.isin(chain, copies[1:]))
    rows = np.flatnonzero(start | (structure.chain_group[chain] == 0))
    images = np.arange(4)
    images[copies] = np.roll(copies, 1)
    labels = exchanged(structure, rows, images)
    found = permuted_rows(
        moved(structure.position[labels]), rows, replace(structure, resolved=resolved)
    )
    np.testing.assert_array_equal(chain[found], chain[labels])


def test_copies_of_which_nothing_is_known_keep_their_labels():
    structure = symmetries(5, residues=12)
    chain = structure.chain_of_atom
    resolved = np.isin(chain, [0, 1])
    labels = exchanged(structure, all_rows(structure), [1, 0, 2, 3, 4])
    predicted = moved(structure.position[labels])
    found = permuted_rows(predicted, all_rows(structure), replace(structure, resolved=resolved))
    np.testing.assert_array_equal(chain[found], chain[labels])


@pytest.mark.parametrize("why", ["ligand", "few tokens", "more copies"])
@pytest.mark.parametrize("seed", range(8))
def test_the_anchor_is_the_polymer_that_can_be_relied_on(why, seed):
    """The other chains are where they should be, but turned the wrong way."""
    rng = np.random.default_rng(seed)
    others, copies = (3, 2) if why == "more copies" else (1, 2)
    structure = symmetries(others, copies, residues=12, seed=seed)
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
        here = chain[labels] == other
        middle = predicted[here].mean(axis=0)
        turn = Rotation.from_rotvec(3 * unit(rng, 1)[0])
        predicted[here] = turn.apply(predicted[here] - middle) + middle
    found = permuted_rows(predicted, rows, structure)
    np.testing.assert_array_equal(chain[found], chain[labels])


def test_a_mirror_image_is_told_from_an_exchange():
    """Two ions on either side of a flat chain: turning it over would bring a lone one across."""
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
    found = permuted_rows(moved(flat * [1, 1, -1]), np.arange(6), structure)
    assert found.tolist() == [0, 1, 2, 3, 5, 4]


@pytest.mark.parametrize("kept", [[], [0], [3, 9], list(range(10, 30))], ids=len)
@pytest.mark.parametrize("resolved", ["none", "one", "two", "first chain", "not the first", "all"])
@pytest.mark.parametrize("prediction", ["zero", "line", "random", "huge", "nan"])
def test_degenerate_inputs_have_a_valid_answer(kept, resolved, prediction):
    structure = symmetries(3, -2)
    rows = np.array(kept or all_rows(structure), np.int64)
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
        found = permuted_rows(predicted.astype(np.float32), rows, structure)
    assert len(np.unique(found)) == len(rows)
    groups = structure.chain_group[structure.chain_of_atom]
    np.testing.assert_array_equal(groups[found], groups[rows])
    if prediction == "nan" or resolved == "none":
        np.testing.assert_array_equal(found, rows)


def test_an_empty_crop_stays_empty():
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
def test_what_contradicts_itself_is_refused(change, message):
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
