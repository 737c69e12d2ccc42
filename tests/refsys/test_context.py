"""Execution context: backends and callbacks reach the recomputation in any thread."""

from threading import Thread

import torch

from refsys import ops
from refsys.model.context import Context
from refsys.model.transition import Transition
from refsys.ops.backend import Choice
from refsys.ops.workspace import watch, workspace
from refsys.parallel import SingleRank
from refsys.precision import PRECISIONS

CONTEXT = Context(layout=SingleRank(4), checkpointing=True)


def in_another_thread(function):
    """Run `function` in a new thread, as autograd runs backward passes on an accelerator."""
    thread = Thread(target=function)
    thread.start()
    thread.join()


def test_recomputation_uses_the_backend_of_its_forward_pass(monkeypatch):
    block = Transition(8, 2, PRECISIONS["float64"])
    x = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    monkeypatch.setenv("FOLDPERF_BACKEND", "compiled")
    before = ops.calls()
    with ops.use_backend("reference"):
        loss = CONTEXT.run(lambda x, context: block(x), x).sum()
    in_another_thread(loss.backward)
    assert ops.calls() - before == {Choice("transition", "reference"): 2}
    assert x.grad is not None


def test_scratch_of_a_recomputation_is_reported():
    def block(x, context):
        return x.exp() * workspace("block", (3,), dtype=x.dtype, device=x.device).fill_(2).sum()

    x = torch.randn(4, requires_grad=True)
    reported = []
    with watch(reported.append):
        loss = CONTEXT.run(block, x).sum()
        in_another_thread(loss.backward)
    assert len(reported) == 2
