"""Pairformer block of the full model at 384 tokens, fused and eager, on fake tensors."""

from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch
from support.saved import saved
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from refsys import ops
from refsys.config import preset
from refsys.costs.collectives import fake_process_group
from refsys.costs.trace import Trace, trace
from refsys.model.context import Context
from refsys.model.layers import copy_kernel_weights
from refsys.model.pairformer import PairformerBlock
from refsys.ops.triton_backend import ARCHITECTURES, assume_architecture, watch_launches
from refsys.parallel import RowSlab, SingleRank
from refsys.parallel.collectives import GroupExchange
from refsys.parallel.ledger import Ledger
from refsys.precision import PRECISIONS

TOKENS, CONFIG = 384, preset("full")
SITES = 4
PAIR = TOKENS**2 * CONFIG.c_z


class Block:
    """Forward and backward of a block with dropout, as a program that can be traced."""

    phases = ("forward", "backward")
    forward_phases = ("forward",)

    def __init__(self, layout):
        self.module: nn.Module = PairformerBlock(CONFIG, PRECISIONS["bfloat16"])
        for number, dropout in enumerate(m for m in self.module.modules() if hasattr(m, "rate")):
            dropout.number = number
        half = {"dtype": torch.bfloat16, "requires_grad": True}
        rows = layout.stop - layout.start
        single = torch.empty(1, rows, CONFIG.c_s, **half)
        pair = torch.empty(1, rows, TOKENS, CONFIG.c_z, **half)
        token_mask = torch.ones(1, TOKENS, dtype=torch.bool)
        pair_mask = torch.ones(1, rows, TOKENS, dtype=torch.bool)
        keep = tuple(torch.ones(1, TOKENS, CONFIG.c_z, dtype=torch.bool) for _ in range(SITES))
        context = Context(layout=layout, masks=keep)
        self.inputs = single, pair, token_mask, pair_mask, context
        self.outputs: tuple[torch.Tensor, ...] = ()
        self.saved_bytes = 0

    def tensors(self):
        return {"parameters": list(self.module.parameters()), "inputs": list(self.inputs[:4])}

    def run(self, phase):
        if phase == "backward":
            torch.autograd.backward(self.outputs, [torch.empty_like(o) for o in self.outputs])
            return
        with saved(self.module.parameters()) as storages:
            copy_kernel_weights(self.module, self.inputs[1])
            self.outputs = self.module(*self.inputs)
        self.saved_bytes = sum(storage.nbytes() for storage in storages)


@dataclass
class Step:
    """Observed costs of a step."""

    trace: Trace
    saved_bytes: int
    largest: int

    def launches(self, phase):
        costs = self.trace.costs.items()
        return sum(cost.launches for origin, cost in costs if origin.phase == phase)

    def kernels(self):
        """Launches of forward and backward, copies among them, without collective operations."""
        costs = self.trace.costs.items()
        return sum(c.launches for origin, c in costs if not origin.operator.startswith("c10d."))


def step(backend, ranks=1):
    elements = []

    def note(launch):
        leaves = tree_leaves(launch.arguments)
        elements.extend(leaf.numel() for leaf in leaves if isinstance(leaf, torch.Tensor))

    def layout():
        return SingleRank(TOKENS) if ranks == 1 else RowSlab(TOKENS, GroupExchange(ledger=Ledger()))

    group = nullcontext() if ranks == 1 else fake_process_group(ranks)
    with group, FakeTensorMode(), ops.use_backend(backend), watch_launches(note):
        block = Block(layout())
        return Step(trace(block), block.saved_bytes, max(elements, default=0))


@pytest.fixture(scope="module")
def eager():
    return step("reference")


@pytest.fixture(scope="module")
def fused():
    return step("triton")


def test_fused_block_has_few_launches(eager, fused):
    assert fused.launches("forward") <= 30
    assert fused.launches("backward") <= 60
    assert min(eager.launches("forward"), eager.launches("backward")) > 100


def test_block_on_four_ranks_starts_few_more_kernels_than_on_one(fused):
    """Half as many more, and two for each rank and attention; copies around exchanges included."""
    ranks, attentions = 4, 3
    divided = step("triton", ranks)
    assert fused.kernels() < divided.kernels()
    assert divided.kernels() <= 1.5 * fused.kernels() + 2 * ranks * attentions
    one, four = (s.launches("forward") + s.launches("backward") for s in (fused, divided))
    assert four < 2 * one


def test_fused_block_saves_a_fifth_of_the_bytes_for_backward(eager, fused):
    assert 5 * fused.saved_bytes <= eager.saved_bytes
    assert fused.saved_bytes >= 8 * 2 * PAIR, "its operators' inputs are among them"


def test_fused_block_has_the_flops_of_the_reference(eager, fused):
    assert fused.trace.total("flops") == eager.trace.total("flops") > 0
    assert fused.trace.unpriced == ()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_largest_tensor_of_the_fused_block_is_at_most_four_pair_tensors(architecture):
    with assume_architecture(architecture):
        assert PAIR <= step("triton").largest <= 4 * PAIR
