"""A trace whose repeated blocks are counted equals the full trace."""

from dataclasses import replace
from functools import partial, partialmethod

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from refsys import config as configurations
from refsys.costs.block_insertion import _Event
from refsys.costs.collectives import fake_process_group
from refsys.costs.prediction import predict
from refsys.costs.repeated_blocks import RepeatedBlocks
from refsys.model.alphafold3 import AlphaFold3
from refsys.model.chunks import recomputed
from refsys.model.diffusion import SamplerConfig
from refsys.ops.rounds import equal_blocks, shortened
from refsys.parallel.data_parallel import GradientAverage
from workloads.catalogue import catalogue
from workloads.language_model import presets as language_models

TRUNK = {"tokens": 24, "entry": "synthetic"}
UNCHECKPOINTED = {"checkpointing": False, "precision": "bfloat16", "cycles": 2}
# Deep enough for stacks to be shortened.
DEEP_TRUNK = {"pairformer_blocks": 6, "msa_blocks": 5}
DEEP_DIFFUSION = {"token_blocks": 6}


@pytest.fixture
def short_rollout(monkeypatch):
    """Two sampling steps, which the full trace runs one by one."""
    rollout = partialmethod(AlphaFold3.rollout, sampler=SamplerConfig(steps=2))
    monkeypatch.setattr(AlphaFold3, "rollout", rollout)


@pytest.mark.parametrize(
    ("name", "axes", "depths", "left_out"),
    [
        ("alphafold3-trunk", TRUNK, DEEP_TRUNK, 2 + 1),
        ("alphafold3-trunk", TRUNK | UNCHECKPOINTED, DEEP_TRUNK, 2 + 1),
        ("alphafold3", TRUNK | {"tokens": 16, "samples": 2, "cycles": 1}, DEEP_DIFFUSION, 2),
    ],
)
def test_shortened_trace_of_alphafold3_equals_the_full_one(
    monkeypatch, short_rollout, name, axes, depths, left_out
):
    """Calls, launches, FLOPs, bytes, module paths, peaks and their composition."""
    tiny = replace(configurations.PRESETS["tiny"], **depths)
    monkeypatch.setitem(configurations.PRESETS, "tiny", tiny)
    workload = catalogue()[name]
    build = partial(workload.build_abstract, workload.configure(axes))
    short = predict(build)
    assert short.left_out == left_out
    assert short == predict(build, shorten=False)


@pytest.mark.parametrize(
    "axes",
    [
        {"preset": "bloom-tiny"},
        {"preset": "llama-tiny", "checkpointing": True, "variant": "naive"},
    ],
)
def test_shortened_trace_of_a_language_model_equals_the_full_one(monkeypatch, axes):
    deep = replace(language_models.PRESETS[axes["preset"]], blocks=7)
    monkeypatch.setitem(language_models.PRESETS, axes["preset"], deep)
    workload = catalogue()["transformer"]
    build = partial(workload.build_abstract, workload.configure(axes))
    short = predict(build)
    assert short.left_out == 3
    assert short == predict(build, shorten=False)


class Block(nn.Module):
    """Residual block that saves activations; `extra` makes a block unlike the others."""

    def __init__(self, width, *, projected=False):
        super().__init__()
        self.projection = nn.Linear(width, width) if projected else nn.Identity()
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.extra = 0

    def forward(self, x, condition, bias):
        if self.extra:
            x = x + torch.zeros(self.extra).sum()
        return x + self.outer(self.inner(x + condition).sigmoid()) * bias * condition


class Stack:
    """Step of a stack of blocks, with an optimizer that needs every gradient.

    All blocks read `condition`, whose gradient is accumulated over them, and each reads a part of
    `biases`, whose gradient is put together from theirs. With `projected`, each block has a
    projection of its bias that is applied before the stack, so that gradients of a block are
    complete after those of the stack.
    """

    phases = ("forward", "backward", "optimizer")
    forward_phases = ("forward",)

    def __init__(
        self, depth=9, *, checkpointing=False, nested=False, rows=64, odd=None, projected=False
    ):
        width = 8
        self.blocks = nn.ModuleList(Block(width, projected=projected) for _ in range(depth))
        self.module = nn.ModuleDict({"blocks": self.blocks})
        self.checkpointing, self.nested, self.holds_outputs = checkpointing, nested, False
        if odd is not None:
            self.blocks[odd].extra = 1000
        self.x = torch.ones(rows, width, requires_grad=True)
        self.condition = nn.Parameter(torch.ones(rows, width))
        self.biases = nn.Parameter(torch.ones(depth, rows, width))
        self.parameters = [*self.module.parameters(), self.condition, self.biases]

    def tensors(self):
        return {"parameters": self.parameters, "inputs": [self.x]}

    def run_stack(self, x, condition, biases):
        projected = [b.projection(bias) for b, bias in zip(self.blocks, biases, strict=True)]
        pairs = list(zip(self.blocks, torch.stack(projected).unbind(0), strict=True))
        before_last = last = None
        for block, bias in equal_blocks(pairs):
            run = partial(recomputed, block) if self.checkpointing else block
            x = run(x, condition, bias)
            if self.holds_outputs:
                before_last, last = last, x
        del before_last, last
        return x

    def run(self, phase):
        if phase == "forward":
            arguments = self.x, self.condition * 2, self.biases * 2
            run = partial(recomputed, self.run_stack) if self.nested else self.run_stack
            self.loss = run(*arguments).sum()
        elif phase == "backward":
            self.loss.backward()
        else:
            gradients = [parameter.grad for parameter in self.parameters]
            with torch.no_grad():
                torch._foreach_add_(self.parameters, gradients, alpha=-1.0)
            del gradients
            for parameter in self.parameters:
                parameter.grad = None


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("depth", [4, 5, 12])
# With many rows activations decide the peak, with few of them gradients do.
@pytest.mark.parametrize("rows", [1, 400])
def test_peak_of_a_stack_is_exact_at_any_depth(depth, checkpointing, rows):
    build = partial(Stack, depth, checkpointing=checkpointing, rows=rows)
    short = predict(build)
    assert short.left_out == max(depth - 4, 0)
    assert short == predict(build, shorten=False)


@pytest.mark.parametrize("odd", [1, 7])
def test_program_is_traced_in_full_when_compared_blocks_differ(odd):
    build = partial(Stack, odd=odd)
    costs = predict(build)
    assert costs.left_out == 0
    assert costs == predict(build, shorten=False)


@pytest.mark.parametrize("odd", [0, 8])
def test_first_and_last_block_may_differ(odd):
    build = partial(Stack, odd=odd)
    assert predict(build) == predict(build, shorten=False)
    assert predict(build).left_out == 5


def test_stack_is_traced_in_full_when_parameters_differ_in_shape():
    def build():
        program = Stack()
        program.blocks[4].inner = nn.Linear(8, 16)
        program.blocks[4].outer = nn.Linear(16, 8)
        program.parameters = [*program.module.parameters(), program.condition, program.biases]
        return program

    assert predict(build).left_out == 0


def test_stack_is_traced_in_full_when_gradients_have_hooks():
    def build():
        program = Stack()
        program.blocks[1].inner.weight.register_post_accumulate_grad_hook(lambda _: None)
        return program

    assert predict(build).left_out == 0


def test_stack_is_traced_in_full_when_outputs_outlive_the_next_block():
    def build():
        program = Stack()
        program.holds_outputs = True
        return program

    assert predict(build).left_out == 0
    assert predict(build) == predict(build, shorten=False)


def test_stack_is_traced_in_full_inside_of_a_recomputed_function():
    build = partial(Stack, nested=True, checkpointing=True)
    assert predict(build).left_out == 0
    assert predict(build) == predict(build, shorten=False)


class Repeated(Block):
    """Block whose parameters stay gathered from its first run to its backward pass."""

    repeated = True


@pytest.mark.parametrize(("kind", "run"), [(Block, 3), (Repeated, 6)])
def test_sharded_blocks_that_stay_gathered_are_all_run(kind, run):
    """A block that a pass without gradients left out would be gathered by the next pass."""
    with fake_process_group(2):
        mesh = init_device_mesh("cpu", (2,))
        blocks = [fully_shard(kind(8), mesh=mesh) for _ in range(6)]
        with shortened(), torch.no_grad():
            assert len(list(equal_blocks(blocks))) == run


class AveragedStack(Stack):
    """Stack whose gradients are averaged over ranks.

    With `waits`, buckets of blocks wait for those of parameters whose gradients are computed last.
    """

    phases = ("forward", "backward", "all_reduce", "optimizer")

    def __init__(self, *, bucket_bytes=1, own=True, waits=False, **options):
        super().__init__(**options)
        blocks = self.blocks if own else ()
        # Buckets are sent in the reverse order of parameters.
        parameters = self.parameters if waits else [*self.parameters[-2:], *self.parameters[:-2]]
        self.average = GradientAverage(parameters, bucket_bytes=bucket_bytes, blocks=blocks)

    def run(self, phase):
        if phase == "all_reduce":
            self.average.wait()
        else:
            super().run(phase)


@pytest.mark.parametrize(
    "waiting", [{}, {"waits": True}, {"projected": True}], ids=["sent", "waits", "projected"]
)
# Each parameter has a bucket of its own, or each block.
@pytest.mark.parametrize("bucket_bytes", [1, 2**11])
@pytest.mark.parametrize("rows", [1, 400])
def test_trace_is_exact_when_gradients_of_a_stack_are_averaged(waiting, bucket_bytes, rows):
    build = partial(AveragedStack, bucket_bytes=bucket_bytes, rows=rows, **waiting)
    short = predict(build, ranks=2)
    assert short.left_out == 5
    assert short == predict(build, ranks=2, shorten=False)


def test_stack_is_traced_in_full_when_blocks_share_buckets():
    build = partial(AveragedStack, own=False, bucket_bytes=3000)
    assert predict(build, ranks=2).left_out == 0


MUTANTS = {
    "calls": ("times", lambda _: 1),
    "memory": ("complete", lambda _, timeline: timeline),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_comparison_fails_when_blocks_left_out_are_not_accounted_for(monkeypatch, mutant):
    whole = predict(Stack, shorten=False)
    monkeypatch.setattr(RepeatedBlocks, *MUTANTS[mutant])
    assert predict(Stack) != whole


def test_comparison_fails_when_blocks_release_their_own_outputs(monkeypatch):
    whole = predict(Stack, shorten=False)
    event_of = _Event.of
    monkeypatch.setattr(_Event, "of", lambda self, k: event_of(self._replace(offset=0), k))
    assert predict(Stack) != whole
