"""Products of tiles in interpreted kernels: the same bits on every processor, errors included."""

import hashlib
import math

import numpy as np
import pytest
from support.processors import FEW_PROCESSORS, run_bit_tests
from support.products import create_dot, product
from triton import language as tl
from triton.runtime.interpreter import TensorHandle


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.mark.bits
def test_product_of_a_row_does_not_depend_on_its_position():
    a, b = draw(64, 48), draw(48, 32, seed=1)
    whole = product(a, b)
    for first in range(1, 9):
        assert np.array_equal(product(np.roll(a, first, 0), b), np.roll(whole, first, 0))
        assert np.array_equal(product(a[first:], b[:, first:]), whole[first:, first:])
    assert np.array_equal(product(b.T, a.T).T, whole)


@pytest.mark.bits
def test_product_has_the_same_bits_on_every_processor():
    bits = product(draw(33, 65), draw(65, 17, seed=1)).astype("<f8").tobytes()
    assert hashlib.sha256(bits).hexdigest()[:16] == "c0bd6d174f5d42d5"


def test_product_equals_the_exact_sum():
    a, b = draw(5, 100), draw(100, 3, seed=1)
    exact = [[math.fsum(a[i] * b[:, j].astype(float)) for j in range(3)] for i in range(5)]
    np.testing.assert_allclose(product(a, b), exact, rtol=1e-12, atol=1e-14)


def dot(a, b, accumulator):
    """Return the result of `tl.dot` in an interpreted kernel."""
    handles = (TensorHandle(x, getattr(tl, x.dtype.name)) for x in (a, b, accumulator))
    return create_dot(None, *handles).data


def test_dot_rounds_every_addition_to_the_accumulator():
    """A kernel that adds many small terms one by one still loses them: 2^24 + 1 is 2^24."""
    ones = np.ones((16, 1), np.float16)
    total = np.full((16, 16), 2.0**24, np.float32)
    for _ in range(3):
        total = dot(ones, ones.T, total)
    assert total.dtype == np.float32
    assert (total == 2.0**24).all()


def test_dot_takes_its_operands_as_they_were_rounded():
    a, b = draw(16, 16), draw(16, 16, seed=1)
    zeros = np.zeros((16, 16), np.float32)
    half = dot(a.astype(np.float16), b.astype(np.float16), zeros)
    assert 1e-4 < np.abs(half - dot(a, b, zeros)).max() < 1e-1


@pytest.mark.parametrize("processor", FEW_PROCESSORS, ids=lambda processor: processor.name)
def test_fused_operators_keep_their_bits_on_other_processors(processor):
    """Tests of other layouts and positions; `make bits` runs all tests on all processors."""
    if reason := processor.unsupported_reason():
        pytest.skip(reason)
    selection = ("-k", "position or processor or slab or strides or padding")
    done = run_bit_tests(processor, "-p", "no:xdist", "tests/refsys/fused", *selection)
    assert done.returncode == 0, done.stdout
