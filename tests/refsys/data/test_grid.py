"""Nearest tokens by the grid equal those of a full scan."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refsys.data.grid import grid_columns, nearest


def full_scan(positions, tokens, point, count):
    distances = np.square(positions - point).sum(axis=1)
    order = np.lexsort([tokens, distances])
    return np.sort(tokens[order[:count]])


@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.sampled_from([0.0, 1.0, 20.0, 3000.0]),
    st.integers(0, 100),
)
def test_nearest_equals_full_scan(count_modelled, count, wide, seed):
    random = np.random.default_rng(seed)
    positions = (wide * random.normal(size=(count_modelled, 3))).astype(np.float32)
    tokens = np.sort(random.choice(2 * count_modelled, count_modelled, replace=False))
    point = positions[random.integers(count_modelled)]
    result = nearest(grid_columns(positions, tokens), point, count)
    assert result.tolist() == full_scan(positions, tokens, point, count).tolist()


@pytest.mark.parametrize("count", [20, 100, 200, 300, 500, 900, 1500])
def test_nearest_equals_full_scan_in_uniformly_filled_space(count):
    """In evenly filled space a box has twice as many tokens as its inscribed sphere."""
    random = np.random.default_rng(count)
    positions = random.uniform(0, 100, size=(5000, 3)).astype(np.float32)
    grid = grid_columns(positions, np.arange(5000))
    for point in positions[:: 5000 // 20]:
        result = nearest(grid, point, count)
        assert result.tolist() == full_scan(positions, np.arange(5000), point, count).tolist()


def test_nearest_of_empty_grid_is_empty():
    grid = grid_columns(np.empty((0, 3), np.float32), np.empty(0, np.int64))
    assert not len(nearest(grid, np.zeros(3, np.float32), 5))


def test_nearest_finds_tokens_of_a_distant_cluster():
    random = np.random.default_rng(0)
    positions = random.normal(size=(200, 3)).astype(np.float32)
    positions[100:] += 19_000
    result = nearest(grid_columns(positions, np.arange(200)), positions[3], 150)
    assert set(range(100)) < set(result.tolist())
    assert len(result) == 150


@pytest.mark.parametrize("entry", ["8vkf", "3en2-assembly1", "5vht"])
def test_grid_of_record_has_the_modelled_tokens(store, entry):
    structure = store.open(entry).structure
    center = structure["token_center"]
    center_modelled = (center >= 0) & structure["atom_resolved"][np.maximum(center, 0)]
    modelled = np.flatnonzero(center_modelled)
    assert structure["modelled_token"].tolist() == modelled.tolist()
    assert np.sort(structure["grid_token"]).tolist() == modelled.tolist()
    assert (
        structure["grid_position"] == structure["atom_position"][center[structure["grid_token"]]]
    ).all()
    assert (np.diff(structure["grid_cell"]) >= 0).all()
