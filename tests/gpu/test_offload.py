"""Checkpoints in pinned host memory: the same bits, and memory of the device is freed."""

import pytest
import torch
from torch import nn

from refsys.model.context import Context
from refsys.model.offload import Offload
from refsys.parallel import SingleRank

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no accelerator")

DEPTH, ROWS, WIDTH = 16, 8192, 1024


def step(blocks, x, offload):
    """Return the loss, all gradients and the peak of the device's memory."""
    context = Context(layout=SingleRank(ROWS), checkpointing=True, offload=offload)
    leaf = x.clone().requires_grad_()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    y = leaf * 1
    for block in blocks:
        y = context.run(lambda y, context, block=block: y + block(y).sin(), y)
    loss = y.square().mean()
    del y
    loss.backward()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    gradients = [leaf.grad, *(p.grad.clone() for p in blocks.parameters())]
    blocks.zero_grad(set_to_none=True)
    return loss.detach(), gradients, peak


def test_offloaded_step_has_the_same_bits_and_a_lower_peak():
    blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH)).cuda()
    x = torch.randn(ROWS, WIDTH, device="cuda")
    step(blocks, x, None)
    kept = step(blocks, x, None)
    for _ in range(3):
        moved = step(blocks, x, Offload())
        assert torch.equal(moved[0], kept[0])
        assert all(torch.equal(*pair) for pair in zip(moved[1], kept[1], strict=True))
        assert kept[2] - moved[2] > (DEPTH - 4) * 4 * ROWS * WIDTH
