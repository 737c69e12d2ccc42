"""The grid finds what asking every token finds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refsys.data.grid import grid_columns, nearest


def asked(positions, tokens, place, count):
    distances = np.square(positions - place).sum(axis=1)
    order = np.lexsort([tokens, distances])
    return np.sort(tokens[order[:count]])


@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.sampled_from([0.0, 1.0, 20.0, 3000.0]),
    st.integers(0, 100),
)
def test_the_nearest_are_those_of_all(known, count, wide, seed):
    random = np.random.default_rng(seed)
    positions = (wide * random.normal(size=(known, 3))).astype(np.float32)
    tokens = np.sort(random.choice(2 * known, known, replace=False))
    place = positions[random.integers(known)]
    found = nearest(grid_columns(positions, tokens), place, count)
    assert found.tolist() == asked(positions, tokens, place, count).tolist()


@pytest.mark.parametrize("count", [20, 100, 200, 300, 500, 900, 1500])
def test_what_is_outside_the_box_may_be_nearer_than_its_corners(count):
    """Evenly filled space: a box holds twice as many as the sphere in it."""
    random = np.random.default_rng(count)
    positions = random.uniform(0, 100, size=(5000, 3)).astype(np.float32)
    grid = grid_columns(positions, np.arange(5000))
    for place in positions[:: 5000 // 20]:
        found = nearest(grid, place, count)
        assert found.tolist() == asked(positions, np.arange(5000), place, count).tolist()


def test_nothing_has_no_nearest():
    grid = grid_columns(np.empty((0, 3), np.float32), np.empty(0, np.int64))
    assert not len(nearest(grid, np.zeros(3, np.float32), 5))


def test_two_clusters_far_apart_are_one_structure():
    random = np.random.default_rng(0)
    positions = random.normal(size=(200, 3)).astype(np.float32)
    positions[100:] += 19_000
    found = nearest(grid_columns(positions, np.arange(200)), positions[3], 150)
    assert set(range(100)) < set(found.tolist())
    assert len(found) == 150


@pytest.mark.parametrize("entry", ["8vkf", "3en2-assembly1", "5vht"])
def test_a_record_has_the_modelled_tokens_in_it(store, entry):
    structure = store.open(entry).structure
    center = structure["token_center"]
    there = (center >= 0) & structure["atom_resolved"][np.maximum(center, 0)]
    modelled = np.flatnonzero(there)
    assert structure["modelled_token"].tolist() == modelled.tolist()
    assert np.sort(structure["grid_token"]).tolist() == modelled.tolist()
    assert (
        structure["grid_position"] == structure["atom_position"][center[structure["grid_token"]]]
    ).all()
    assert (np.diff(structure["grid_cell"]) >= 0).all()
