"""Buckets fit their content, waste little, and have few sizes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from refsys.data.batches.buckets import atom_bucket, row_bucket, token_bucket
from refsys.data.batches.construction import ExampleSpec
from refsys.data.batches.examples import Examples


@given(st.integers(1, 5000), st.integers(0, 5000))
def test_token_bucket_fits_with_at_most_a_third_of_padding(tokens, more):
    most = tokens + more
    size = token_bucket(tokens, most)
    assert tokens <= size <= most
    assert size <= max(64, 2 * tokens - 1)
    assert token_bucket(size, most) == size
    if tokens > 128:
        assert size < 1.51 * tokens


@given(st.integers(1, 20_000), st.integers(0, 20_000))
def test_row_bucket_fits_and_is_less_than_four_times_as_large(rows, more):
    size = row_bucket(rows, rows + more)
    assert rows <= size <= max(16, 4 * rows - 1)


@given(st.integers(1, 50_000), st.integers(1, 1000))
def test_atom_bucket_fits_the_atoms(atoms, tokens):
    size = atom_bucket(atoms, tokens)
    assert size % tokens == 0
    assert atoms <= size <= max(8 * tokens, 2 * atoms, atoms + 8 * tokens)


def test_buckets_have_few_sizes():
    assert len({token_bucket(tokens, 768) for tokens in range(1, 769)}) == 7
    assert len({row_bucket(rows, 1024) for rows in range(1, 1025)}) == 4
    assert [token_bucket(tokens, 768) for tokens in (1, 65, 300, 700)] == [64, 128, 384, 768]


@pytest.mark.parametrize("entry", ["1ubq", "8vkf", "2q2k"])
def test_bucketed_batch_equals_unbucketed_batch_with_less_padding(store, entry):
    sizes = {"tokens": 400, "alignment_rows": 300, "whole": True, "crop": "contiguous"}
    for step in range(3):
        small, large = (
            Examples(store, [entry], ExampleSpec(**sizes, bucketed=bucketed))[step]
            for bucketed in (True, False)
        )
        assert small.sizes["token"] == token_bucket(int(large["token_mask"].sum()), 400)
        assert small.sizes["bond"] == 2 * small.sizes["token"]
        most = {axis: max(size, large.sizes[axis]) for axis, size in small.sizes.items()}
        del most["batch"]
        one, two = small.padded(**most), large.padded(**most)
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert small.nbytes < large.nbytes or entry == "8vkf"
