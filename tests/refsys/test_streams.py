"""Philox against its published test vectors, and laws of keyed draws."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from refsys.streams import Draw, philox, stream_key

CPU = torch.device("cpu")
FULL = 0xFFFFFFFF


# The known-answer vectors that come with the Random123 distribution.
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((FULL,) * 4, (FULL, FULL), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_equals_known_answers_for_ints_arrays_and_tensors(counter, key, expected):
    assert philox(counter, key) == expected
    arrays = philox(tuple(np.array([word], np.int64) for word in counter), key)
    assert tuple(int(word[0]) for word in arrays) == expected
    tensors = philox(tuple(torch.tensor([word]) for word in counter), key)
    assert tuple(int(word[0]) for word in tensors) == expected


@pytest.mark.bits
@given(
    seed=st.integers(0, 2**63),
    stream=st.text(max_size=8),
    step=st.integers(0, 2**31),
    example=st.integers(0, 2**31),
    start=st.integers(0, 2**40),
    count=st.integers(0, 40),
)
def test_host_and_device_draws_agree(seed, stream, step, example, start, count):
    draw = Draw(seed, stream, step, example)
    assert np.array_equal(draw.integers(count, start), draw.integers_on(CPU, count, start).numpy())
    assert np.array_equal(draw.uniform(count, start), draw.uniform_on(CPU, count, start).numpy())
    np.testing.assert_array_max_ulp(
        draw.normal(count, start), draw.normal_on(CPU, count, start).numpy(), maxulp=4
    )


@pytest.mark.bits
@given(start=st.integers(0, 1000), count=st.integers(1, 50), cut=st.integers(0, 50))
def test_draws_are_independent_of_how_they_are_split(start, count, cut):
    draw, cut = Draw(1, "cut"), min(cut, count)
    for kind in (draw.integers, draw.uniform, draw.normal):
        whole = kind(count, start)
        parts = np.concatenate([kind(cut, start), kind(count - cut, start + cut)])
        assert np.array_equal(whole, parts)


def test_draws_depend_on_all_parts_of_the_key():
    base = Draw(1, "a", 2, 3)
    changed = [Draw(2, "a", 2, 3), Draw(1, "b", 2, 3), Draw(1, "a", 3, 3), Draw(1, "a", 2, 4)]
    for other in changed:
        assert not np.array_equal(base.integers(8), other.integers(8))


@given(count=st.integers(0, 3000), most=st.integers(0, 3100), seed=st.integers(0, 99))
def test_sample_equals_the_start_of_a_permutation(count, most, seed):
    draw = Draw(seed, "sample")
    assert np.array_equal(draw.sample(count, most), draw.permutation(count)[:most])


def test_sample_keeps_the_order_of_equal_integers(monkeypatch):
    monkeypatch.setattr(Draw, "integers", lambda self, count: np.full(count, 2**32 - 1, np.uint32))
    assert Draw(0, "same").sample(9, 4).tolist() == [0, 1, 2, 3]


@pytest.mark.bits
def test_tensor_keys_broadcast_over_the_batch():
    examples = torch.tensor([[5], [9]])
    both = Draw(1, "a", torch.tensor(2), examples).uniform_on(CPU, 7, 3)
    for row, example in enumerate((5, 9)):
        assert np.array_equal(both[row].numpy(), Draw(1, "a", 2, example).uniform(7, 3))


@pytest.mark.bits
def test_uniform_table_equals_its_rows():
    examples = torch.tensor([[5], [9]])
    table = Draw(1, "a", 2, examples).uniform_table_on(CPU, rows=3, count=6)
    single = Draw(1, "a", 2, 9).uniform_table_on(CPU, rows=3, count=6)
    for row in range(3):
        assert np.array_equal(single[row].numpy(), Draw(1, "a", 2, 9).uniform(6, row * 2**34))
        assert torch.equal(table[row, 1], single[row])


@pytest.mark.bits
@given(blocks=st.lists(st.integers(0, 2**40), min_size=1, max_size=5), count=st.integers(1, 15))
def test_normal_table_equals_its_rows(blocks, count):
    starts = 4 * torch.tensor(blocks)
    table = Draw(1, "a", 2, torch.tensor([[5], [9]])).normal_table_on(starts, count)
    for row, start in enumerate(starts.tolist()):
        draw = Draw(1, "a", 2, 9)
        assert torch.equal(draw.normal_table_on(starts, count)[row], table[row, 1])
        assert torch.equal(table[row, 1], draw.normal_on(CPU, count, start))


@pytest.mark.bits
@given(
    rows=st.lists(st.integers(0, 2**40), min_size=1, max_size=9),
    width=st.sampled_from([4, 8, 20]),
    example=st.integers(0, 2**31),
)
def test_normal_rows_equal_slices_of_one_draw(rows, width, example):
    draw = Draw(1, "rows", 2, example)
    table = draw.normal_rows(np.array(rows, np.int64), width)
    assert table.shape == (len(rows), width)
    for row, normals in zip(rows, table, strict=True):
        assert np.array_equal(normals, draw.normal(width, row * width))


def test_integers_equal_golden_hashes():
    """Records and resumed runs depend on these exact values."""
    text = b"".join(
        Draw(seed, stream, step, step + 1).integers(1000, step * 7).astype("<u4").tobytes()
        for seed in (0, 2**40)
        for stream in ("crop", "dropout/x/0")
        for step in (0, 1, 2**20)
    )
    assert hashlib.sha256(text).hexdigest()[:16] == "c4ee2642a0d29918"
    assert stream_key(0, "crop") == (0x41A232BF, 0x8D174D9E)


def test_uniform_and_normal_have_the_expected_moments():
    draw = Draw(3, "shape")
    uniform, normal = draw.uniform(200_000), draw.normal(200_000).astype(np.float64)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.003
    assert abs(normal.mean()) < 0.01
    assert abs(normal.std() - 1) < 0.01
    assert abs((normal**4).mean() - 3) < 0.1


def test_permutations_and_bounded_integers_are_uniform():
    first = np.array([Draw(1, "p", step).permutation(5)[0] for step in range(5000)])
    below = np.array([Draw(1, "b", step).below(5) for step in range(5000)])
    for sample in (first, below):
        counts = np.bincount(sample, minlength=5)
        # Chi-squared with 4 degrees of freedom: 23.5 is the 0.9999 quantile.
        assert ((counts - 1000) ** 2 / 1000).sum() < 23.5
    assert sorted(Draw(1, "p").permutation(9)) == list(range(9))
    assert [Draw(1, "b").below(7, number) for number in range(50)] != [Draw(1, "b").below(7)] * 50
