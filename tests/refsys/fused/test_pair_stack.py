"""Pair stack with fused operators, unsharded and in slabs, against plain PyTorch."""

import threading

import pytest
import torch
from support.layouts import in_lockstep
from support.trunks import CONFIG, context, random_batch, randomize

from refsys import ops
from refsys.model.pairformer import PairStack
from refsys.ops import triton_backend
from refsys.parallel import SingleRank
from refsys.precision import PRECISIONS

TOKENS = 9
BATCH = random_batch(TOKENS, 2)
MASK = BATCH["token_mask"].unsqueeze(2) & BATCH["token_mask"].unsqueeze(1)
C_Z, HEADS = CONFIG.c_z, 2


@pytest.fixture(scope="module")
def pair():
    return torch.randn(1, TOKENS, TOKENS, C_Z, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def fused(monkeypatch):
    """Run every operator on its kernels, in all threads; the interpreter runs one at a time."""
    monkeypatch.setenv("FOLDPERF_BACKEND", "triton")
    lock, function = threading.Lock(), triton_backend.function

    class Locked:
        def __init__(self, kernel):
            self.kernel = function(kernel)

        def __getitem__(self, grid):
            def run(*arguments, **options):
                with lock:
                    self.kernel[grid](*arguments, **options)

            return run

    monkeypatch.setattr(triton_backend, "function", Locked)


def stack(name):
    module = PairStack(C_Z, HEADS, 0.25, 4, PRECISIONS[name])
    randomize(module)
    return module


def update(module, layout, z, dtype=torch.float32):
    slab = layout.local(z.to(dtype), 1)
    return module(slab, layout.local(MASK, 1), context(BATCH, layout))


def gradients(name, z):
    dtype = torch.float64 if name == "float64" else torch.float32
    module, whole = stack(name), z.to(dtype).requires_grad_()
    out = update(module, SingleRank(TOKENS), whole, dtype)
    towards = torch.linspace(-1, 1, C_Z, dtype=dtype).expand_as(out)
    return out.detach(), *torch.autograd.grad(out, [whole, *module.parameters()], towards)


def test_pair_stack_runs_every_operator_on_kernels(fused, pair):
    calls, fallbacks = ops.calls(), ops.fallbacks()
    update(stack("float32"), SingleRank(TOKENS), pair)
    assert {choice.backend for choice in ops.calls() - calls} == {"triton"}
    assert not ops.fallbacks() - fallbacks


def test_output_and_gradients_are_as_exact_as_plain(pair, monkeypatch, request):
    exact, plain = gradients("float64", pair), gradients("float32", pair)
    request.getfixturevalue("fused")
    fused_results = gradients("float32", pair)
    for true, one, other in zip(exact, plain, fused_results, strict=True):
        error, allowed = ((t.double() - true).abs().max().item() for t in (other, one))
        assert error <= 3 * allowed + 4 * torch.finfo(torch.float32).eps * true.abs().max().item()


@pytest.mark.parametrize("ranks", [2, 3])
def test_slabs_on_several_ranks_equal_the_whole(fused, pair, ranks):
    module = stack("float32")
    with torch.no_grad():
        whole = update(module, SingleRank(TOKENS), pair)
    fused_results = in_lockstep(TOKENS, ranks, lambda layout: (update(module, layout, pair),))
    slabs = torch.cat([slab for (slab,) in fused_results], dim=1)
    torch.testing.assert_close(slabs, whole, rtol=1e-5, atol=1e-5)
