"""Chunk sizes change memory only: not the random draws, losses, gradients or exchanges."""

import dataclasses
from collections import Counter
from functools import cache
from itertools import pairwise

import pytest
import torch
from support.atoms import with_atoms, with_labels, with_templates
from support.layouts import PoisonLayout, in_lockstep, slabs
from support.trunks import CONFIG, FLOAT64, context, random_batch, random_trunk, randomize
from torch._subclasses.fake_tensor import FakeTensorMode

from refsys.config import PRESETS
from refsys.costs.trace import trace
from refsys.errors import ArgumentError
from refsys.losses.trunk import trunk_loss
from refsys.model.alphafold3 import TrunkState
from refsys.model.chunks import Chunks, in_chunks
from refsys.parallel import SingleRank
from refsys.precision import PRECISIONS
from refsys.training.alphafold3_step import AlphaFold3Training
from refsys.training.build import placeholder_batch
from refsys.training.stages import STAGES, Stage
from workloads.catalogue import catalogue
from workloads.predicted_costs import predicted_costs
from workloads.workload import ExecutionContext, Program

TOKENS, ROWS, SAMPLES = 13, 6, 5
TRUNK, ALPHAFOLD3 = catalogue()["alphafold3-trunk"], catalogue()["alphafold3"]


def assert_close(actual, expected, name=None):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10, msg=name)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Use one thread: tensors this small are slower with several on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trunk():
    return random_trunk()


@pytest.fixture(scope="module")
def batch():
    return random_batch(TOKENS, ROWS, batch=2)


def trunk_step(trunk, batch, layout=None, **options):
    trunk.zero_grad()
    this = context(batch, layout, seed=7, step=3, **options)
    loss = trunk_loss(trunk(batch, this, 2), batch, this.layout, FLOAT64)
    loss.backward()
    return loss, {n: p.grad.clone() for n, p in trunk.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module")
def whole_step(trunk, batch):
    """Loss and gradients of the trunk without chunks."""
    return trunk_step(trunk, batch)


@pytest.mark.parametrize(
    ("rows", "checkpointing"), [(1, True), (4, False), (5, True), (TOKENS - 1, False)]
)
def test_trunk_loss_and_gradients_are_independent_of_chunk_rows(
    trunk, batch, whole_step, rows, checkpointing
):
    loss, gradients = whole_step
    chunks = Chunks(rows=rows)
    again, chunked = trunk_step(trunk, batch, chunks=chunks, checkpointing=checkpointing)
    assert_close(again, loss)
    assert set(chunked) == set(gradients)
    for name, gradient in gradients.items():
        assert_close(chunked[name], gradient, name)


@pytest.mark.bits
def test_chunk_rows_equal_to_the_tokens_are_bitwise_unchunked(trunk, batch, whole_step):
    loss, gradients = whole_step
    again, chunked = trunk_step(trunk, batch, chunks=Chunks(rows=TOKENS))
    assert torch.equal(again, loss)
    assert all(torch.equal(chunked[name], gradient) for name, gradient in gradients.items())


@pytest.fixture(scope="module")
def full_step():
    """Return a function that runs a step of the full model with given chunk sizes."""
    atoms = with_templates(with_labels(with_atoms(random_batch(11, 5, batch=2))))
    stage = Stage(tokens=11, samples=SAMPLES, bond=1.0, pae=1.0, confidence=1.0)

    @cache
    def step(chunks, checkpointing=True):
        training = AlphaFold3Training(
            dataclasses.replace(CONFIG, msa_blocks=2),
            FLOAT64,
            stage=stage,
            samples=SAMPLES,
            chunks=chunks,
            checkpointing=checkpointing,
        )
        randomize(training.model)
        training.backward(training.forward(atoms, 3))
        named = training.model.named_parameters()
        return training.losses, {n: p.grad for n, p in named if p.grad is not None}

    return step


@pytest.mark.parametrize(
    ("chunks", "checkpointing"),
    [
        (Chunks(samples=1), False),
        (Chunks(rows=3, samples=4), True),
        (Chunks(rows=7, samples=3), False),
    ],
)
def test_full_model_losses_and_gradients_are_independent_of_chunks(
    full_step, chunks, checkpointing
):
    losses, gradients = full_step(Chunks())
    found, chunked = full_step(chunks, checkpointing)
    for name, loss in losses.items():
        assert_close(found[name], loss, name)
    assert set(chunked) == set(gradients)
    for name, gradient in gradients.items():
        assert_close(chunked[name], gradient, name)


@pytest.mark.parametrize("ranks", [2, 4])
def test_sharded_chunked_trunk_equals_unsharded(trunk, batch, ranks):
    """Includes dropout and uneven slabs, which have different numbers of chunks."""
    assert len({-(-(stop - start) // 3) for start, stop in slabs(TOKENS, ranks)}) == 2

    def program(layout):
        this = context(batch, layout, seed=7, step=3, chunks=Chunks(rows=3))
        return trunk(batch, this, 2)

    with torch.no_grad():
        whole = trunk(batch, context(batch, seed=7, step=3), 2)
    results = in_lockstep(TOKENS, ranks, program)
    for (start, stop), result in zip(slabs(TOKENS, ranks), results, strict=True):
        for slab, full in zip(result, whole, strict=True):
            torch.testing.assert_close(slab, full[:, start:stop], rtol=1e-9, atol=1e-9)


def test_slab_gradients_are_independent_of_chunks(trunk, batch, whole_step):
    """Other ranks hold garbage, which must enter a chunked result exactly as an unchunked one."""
    loss, gradients = trunk_step(trunk, batch, PoisonLayout(TOKENS, 1, 3))
    again, chunked = trunk_step(
        trunk, batch, PoisonLayout(TOKENS, 1, 3), chunks=Chunks(rows=3), checkpointing=True
    )
    assert_close(again, loss)
    for name, gradient in gradients.items():
        assert_close(chunked[name], gradient, name)
    whole, _ = whole_step
    assert (again - whole).abs() > 1e-3


class CountedMoves(SingleRank):
    """One-rank layout that claims to be sharded and counts the exchanges it would make."""

    is_unsharded = False

    def __init__(self, tokens):
        super().__init__(tokens)
        self.moves = Counter()

    def __getattribute__(self, name):
        attribute = super().__getattribute__(name)
        if callable(attribute) and name != "local":
            self.moves[name] += 1
        return attribute


@pytest.mark.parametrize("checkpointing", [False, True])
def test_exchanges_are_independent_of_the_number_of_chunks(trunk, batch, checkpointing):
    """Uneven slabs have different numbers of chunks: an exchange per chunk would deadlock."""
    moves = []
    for rows in (4, TOKENS):
        layout = CountedMoves(TOKENS)
        options = {"chunks": Chunks(rows=rows), "checkpointing": checkpointing}
        trunk_step(trunk, batch, layout, **options)
        moves.append(layout.moves)
    assert moves[0] == moves[1]
    assert moves[0]["gather_tokens"] > 0


@pytest.mark.parametrize("size", range(9))
def test_in_chunks_equals_one_call_and_recomputes_each_chunk_once(size):
    g = torch.Generator().manual_seed(1)
    x_ai, y_ib, w_c = (
        torch.randn(shape, generator=g, dtype=torch.float64, requires_grad=True)
        for shape in ((3, 7), (7, 2), (4,))
    )
    sizes = []

    def function(x_ai, y_ib, w_c):
        sizes.append(len(y_ib))
        product_aic = torch.einsum("ai,ib,c->aic", x_ai.exp(), y_ib, w_c.sigmoid())
        return product_aic, product_aic.square().sum(-1)

    def run(size):
        sizes.clear()
        results = in_chunks(function, size, x_ai, y_ib, w_c, axes=(1, 0), out=1)
        loss = sum(result.sin().sum() for result in results)
        return (*results, *torch.autograd.grad(loss, (x_ai, y_ib, w_c)))

    whole = run(0)
    for found, expected in zip(run(size), whole, strict=True):
        assert_close(found, expected)
    parts = [min(size, 7 - first) for first in range(0, 7, size)] if 0 < size < 7 else [7]
    # The backward pass starts with the last chunk.
    assert sizes == (parts + parts[::-1] if len(parts) > 1 else parts)
    with torch.no_grad():
        run_without = in_chunks(function, size, x_ai, y_ib, w_c, axes=(1, 0), out=1)
    assert_close(run_without[0], whole[0].detach())


@pytest.mark.parametrize("sizes", [{"rows": -1}, {"samples": -2}])
def test_chunks_raise_for_a_negative_size(sizes):
    with pytest.raises(ArgumentError, match="is negative; 0 takes all at once"):
        Chunks(**sizes)


def axes_of(**axes):
    return {"preset": "tiny", "entry": "synthetic", "precision": "bfloat16"} | axes


def peak(workload, axes):
    return predicted_costs(workload, workload.configure(axes)).peak.nbytes


@pytest.mark.parametrize(("checkpointing", "sizes"), [(True, (0, 96, 64)), (False, (0, 96))])
def test_predicted_peak_decreases_with_chunk_rows(checkpointing, sizes):
    axes = axes_of(tokens=192, alignment_rows=64, checkpointing=checkpointing, cycles=1)
    peaks = [peak(TRUNK, axes | {"chunk_rows": rows}) for rows in sizes]
    assert all(more > 1.2 * less for more, less in pairwise(peaks))
    assert peaks[0] > 3 * peaks[1]


class Denoising(Program):
    """Training step without trunk and rollout, whose memory does not depend on `chunk_samples`."""

    phases = ("forward", "backward")

    def __init__(self, samples, chunks):
        model, table = PRESETS["tiny"], PRECISIONS["bfloat16"]
        stage = STAGES["initial"]
        self.training = AlphaFold3Training(
            model, table, stage=stage, samples=samples, chunks=chunks
        )
        self.batch = placeholder_batch(ALPHAFOLD3.configure(axes_of(tokens=24)).run)
        tokens = self.batch.sizes["token"]
        shapes = ((tokens, model.c_s_inputs), (tokens, model.c_s), (tokens, tokens, model.c_z))
        self.state = TrunkState(*(torch.zeros(1, *s, dtype=table.activations) for s in shapes))

    def run(self, phase):
        if phase == "backward":
            return self.training.backward(self.loss)
        batch, this = self.batch, self.training.context(self.batch, 0)
        condition = self.training.model.condition(self.state, batch, this)
        positions = batch["atom_position"]
        self.loss = self.training.loss(self.state, condition, positions, batch, this)


def test_predicted_peak_decreases_with_chunk_samples():
    with FakeTensorMode():
        peaks = [trace(Denoising(8, Chunks(samples=s))).peak.nbytes for s in (0, 3)]
    assert peaks[0] > 1.3 * peaks[1]


def test_simulated_chunked_step_equals_the_executed_step(tmp_path):
    config = TRUNK.configure(axes_of(tokens=40, chunk_rows=24))
    program = TRUNK.build(config, ExecutionContext(device=torch.device("cpu"), store=tmp_path))
    for phase in program.phases:
        program.run(phase)
    predicted, real = predicted_costs(TRUNK, config), trace(program)
    assert predicted.peak.nbytes == pytest.approx(real.peak.nbytes, rel=0.01)
    assert predicted.total("flops") == real.total("flops")


def test_static_costs_are_independent_of_chunks():
    whole, chunked = (
        TRUNK.configure(axes_of(tokens=16, alignment_rows=4, chunk_rows=rows)) for rows in (0, 5)
    )
    assert TRUNK.static_costs(chunked) == TRUNK.static_costs(whole)


def test_variant_label_contains_chunk_sizes():
    config = ALPHAFOLD3.configure({"chunk_rows": 5, "chunk_samples": 2})
    assert ALPHAFOLD3.labels(config)["variant"].split(", ")[2:4] == [
        "chunk_rows=5",
        "chunk_samples=2",
    ]
