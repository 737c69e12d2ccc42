"""Copies of master weights in the activation dtype: reuse, invalidation and lifetime."""

import gc

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from refsys.ops import weight_copies
from refsys.ops.triton_backend import watch_launches
from refsys.ops.weight_copies import in_dtype, prepare

HALF = torch.bfloat16


@pytest.fixture
def weight():
    return nn.Parameter(torch.randn(3, 4))


def received(weight, dtype=HALF):
    """Return the weight that a kernel receives, and whether it had to be copied."""
    seen = []
    with watch_launches(seen.append):
        found = in_dtype("a.b", weight, dtype)
    assert torch.equal(found, weight.detach().to(dtype))
    return found, bool(seen)


def test_prepare_copies_all_weights_in_one_launch(weight):
    seen, half = [], nn.Parameter(torch.randn(2, 2, dtype=HALF))
    with watch_launches(seen.append):
        prepare([weight, half, nn.Parameter(torch.randn(5))], HALF)
    assert len(seen) == 1
    assert [len(part) for part in seen[0].arguments] == [2, 2]
    first, copied = received(weight)
    assert not copied
    assert received(weight.detach())[0] is first, "an alias, as the backward pass may receive"
    assert received(half)[0] is half


def test_in_dtype_copies_when_no_copy_of_that_dtype_exists(weight):
    assert received(weight)[1]
    prepare([weight], HALF)
    assert received(weight, torch.float16)[1]
    assert not received(weight, torch.float32)[1]


def test_prepare_updates_the_copy_of_a_changed_weight_in_place(weight):
    prepare([weight], HALF)
    first, _ = received(weight)
    with torch.no_grad():
        weight.mul_(2)
    assert received(weight)[1]
    prepare([weight], HALF)
    again, copied = received(weight)
    assert again.data_ptr() == first.data_ptr()
    assert not copied


def test_prepare_copies_changes_that_bypass_the_version_counter(weight):
    prepare([weight], HALF)
    weight.data.zero_()
    prepare([weight], HALF)
    assert not received(weight)[1]


def test_copy_is_not_used_for_a_weight_with_new_storage(weight):
    prepare([weight], HALF)
    former = weight.detach()
    weight.data = torch.randn(3, 4)
    assert received(weight)[1]
    assert received(former)[1], "its storage no longer belongs to the weight"


def test_copy_is_released_with_its_weight(weight):
    before = len(weight_copies._copies)
    temporary = nn.Parameter(torch.randn(3, 4))
    prepare([weight, temporary], HALF)
    assert len(weight_copies._copies) == before + 2
    del temporary
    gc.collect()
    assert len(weight_copies._copies) == before + 1


def test_recomputed_block_uses_the_copy(weight):
    """The saved tensors of a recomputed block are aliases of the weights."""

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(x, weight)
            return x @ received(weight)[0].float()

        @staticmethod
        def backward(ctx, grad):
            x, weight = ctx.saved_tensors
            copies.append(received(weight)[1])
            return grad @ weight.T, x.T @ grad

    copies = []
    prepare([weight], HALF)
    x = torch.randn(2, 3, requires_grad=True)
    checkpoint(Product.apply, x, weight, use_reentrant=False).sum().backward()
    assert copies == [False]
