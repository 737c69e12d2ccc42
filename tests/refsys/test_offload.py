"""Checkpoints in host memory: the same bits, less memory of the device, the same traces."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from support.longest_steps import configuration, traced_step
from support.rank_threads import on_ranks
from support.sharded_steps import losses_and_gradients, step_batch, training
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from refsys import config as configurations
from refsys.costs.prediction import predict
from refsys.errors import ArgumentError
from refsys.model import offload
from refsys.model.chunks import recomputed
from refsys.model.context import Context
from refsys.model.offload import Offload
from refsys.ops.host_memory import TO_DEVICE, TO_HOST
from refsys.parallel import SingleRank
from refsys.parallel.collectives import GroupExchange
from refsys.parallel.ledger import Ledger
from refsys.run_config import run_config
from workloads.catalogue import catalogue
from workloads.predicted_costs import predicted_costs

TRUNK = catalogue()["alphafold3-trunk"]
TOKENS, BLOCKS = 96, 5
AXES = {"tokens": TOKENS, "entry": "synthetic", "workers": 0, "alignment_rows": 8}
FUSED = AXES | {"backend": "triton"}


class Copies(TorchDispatchMode):
    """Names of the copies between host and device, in order, and the bytes that they moved."""

    def __init__(self):
        super().__init__()
        self.names, self.nbytes = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if str(func) in (TO_HOST, TO_DEVICE):
            self.names.append(str(func))
            self.nbytes += args[0].numel() * args[0].element_size()
        return func(*args, **(kwargs or {}))


@pytest.fixture
def all_tensors(monkeypatch):
    """Move tensors of any size."""
    monkeypatch.setattr(offload, "LEAST_BYTES", 1)


@pytest.fixture
def deep(monkeypatch):
    """A tiny preset whose Pairformer is deep enough to be shortened."""
    tiny = replace(configurations.PRESETS["tiny"], pairformer_blocks=BLOCKS)
    monkeypatch.setitem(configurations.PRESETS, "tiny", tiny)


def moved_step(exchange=None):
    step = training(exchange, checkpointing=True)
    step.offload_checkpoints = True
    return step


def assert_same_bits(one, other):
    assert torch.equal(one[0], other[0])
    assert one[2].keys() == other[2].keys()
    for name, gradient in one[2].items():
        assert (gradient is None) == (other[2][name] is None), name
        assert gradient is None or torch.equal(gradient, other[2][name]), name


@pytest.mark.bits
def test_gradients_have_the_same_bits_with_checkpoints_in_host_memory(all_tensors):
    """Full model: dropout, padding, chained and shared arguments of blocks."""
    kept = losses_and_gradients(training(checkpointing=True), step_batch())
    with Copies() as copies:
        moved = losses_and_gradients(moved_step(), step_batch())
    assert_same_bits(moved, kept)
    assert copies.names.count(TO_HOST) == copies.names.count(TO_DEVICE) > 5


@pytest.mark.bits
def test_gradients_of_context_ranks_have_the_same_bits(all_tensors):
    def program(rank, build):
        step = build(GroupExchange(ledger=Ledger()))
        return losses_and_gradients(step, step_batch())

    kept = on_ranks(3, partial(program, build=partial(training, checkpointing=True)))
    moved = on_ranks(3, partial(program, build=moved_step))
    for one, other in zip(moved, kept, strict=True):
        assert_same_bits(one, other)


def test_device_holds_the_inputs_of_few_blocks_at_once(deep):
    """All of them are on the host when backward begins; activations do not grow with the depth.

    The trace is shortened, and equals the full one.
    """
    table = configurations.PRESETS["tiny"]
    pairs = TOKENS**2 * table.c_z * 4
    assert pairs > offload.LEAST_BYTES
    kept, moved = (
        predicted_costs(TRUNK, TRUNK.configure(FUSED | {"offload_checkpoints": chosen}))
        for chosen in (False, True)
    )
    blocks = BLOCKS + table.msa_blocks + table.template_blocks
    assert kept.host_bytes == 0
    assert (BLOCKS + table.msa_blocks) * pairs <= moved.host_bytes <= blocks * pairs
    assert moved.peak.nbytes < kept.peak.nbytes
    activations = [
        costs.phase_peaks["backward"].by_state["activations"] / pairs for costs in (kept, moved)
    ]
    assert activations[0] > BLOCKS
    assert activations[1] < 4
    assert "offloaded" not in moved.peak.by_state
    config = TRUNK.configure(FUSED | {"offload_checkpoints": True})
    assert moved.left_out == BLOCKS - 4
    assert moved == predict(lambda: TRUNK.build_abstract(config), shorten=False)


def test_shortened_trace_of_context_ranks_equals_the_full_one(all_tensors):
    """With sharded parameters."""
    model = replace(configurations.PRESETS["tiny"], pairformer_blocks=5)
    axes = {"model": "trunk", "preset": "tiny", "alignment_rows": 8, "offload_checkpoints": True}
    config = configuration(32, 2, **axes)
    short = traced_step(config, model)
    assert short.left_out == 1
    assert short == traced_step(config, model, shorten=False)


class Stack:
    """Blocks that double their input, each recomputed."""

    def __init__(self, depth):
        self.blocks = [nn.Linear(8, 8) for _ in range(depth)]
        self.context = Context(layout=SingleRank(4), checkpointing=True, offload=Offload())

    def __call__(self, x):
        for block in self.blocks:
            x = self.context.run(lambda x, context, block=block: block(x).sin(), x)
        return x.sum()


def test_inputs_return_one_block_ahead(all_tensors):
    stack, order = Stack(3), []
    x = torch.ones(4, 8, requires_grad=True) * 2
    for number, block in enumerate(stack.blocks):
        block.register_forward_hook(lambda *_, number=number: order.append(number))
    with Copies() as copies:
        loss = stack(x)
        assert copies.names == [TO_HOST] * 3
        copies.names = order
        order.clear()
        loss.backward()
    assert order == [TO_DEVICE, TO_DEVICE, 2, TO_DEVICE, 1, 0]


def test_backward_can_run_twice(all_tensors):
    x = torch.ones(4, 8, requires_grad=True) * 2
    loss = Stack(3)(x)
    one, two = (torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(one, two)


def test_input_that_blocks_share_stays(all_tensors):
    context = Stack(0).context
    x, shared = (torch.ones(4, 8, requires_grad=True) * 2 for _ in range(2))
    with Copies() as copies:
        context.run(lambda x, y, context: x.sin() * y, x, shared, shared=1).sum().backward()
    assert copies.names == [TO_HOST, TO_DEVICE]


def test_nothing_is_moved_inside_a_recomputed_function_or_without_gradients(all_tensors):
    x = torch.ones(4, 8, requires_grad=True) * 2
    with Copies() as copies:
        recomputed(Stack(2), x).backward()
        with torch.no_grad():
            Stack(2)(x)
    assert copies.names == []


def test_strides_survive_the_way_to_the_host(all_tensors):
    x = (torch.ones(4, 8, requires_grad=True) * 2).t()
    strides = []
    context = Stack(0).context
    context.run(lambda x, context: (strides.append(x.stride()), x.sin())[1], x).sum().backward()
    assert strides == [(1, 8)] * 2


def test_small_inputs_and_views_of_larger_tensors_stay(monkeypatch):
    monkeypatch.setattr(offload, "LEAST_BYTES", 64)
    x = torch.ones(4, 8, requires_grad=True) * 2
    context = Stack(0).context
    with Copies() as copies:
        for part in (x[:, :1].contiguous(), x[:2]):
            context.run(lambda x, context: x.sin(), part).sum().backward(retain_graph=True)
    assert copies.names == []


def test_offload_without_checkpointing_is_refused():
    with pytest.raises(ArgumentError, match="turn checkpointing on"):
        run_config(checkpointing=False, offload_checkpoints=True)
