"""Whole training steps of a tiny model in float64, on one rank or divided among several."""

import dataclasses
from functools import cache, partial

from refsys.config import ModelConfig
from refsys.model.chunks import Chunks
from refsys.model.diffusion import SamplerConfig
from refsys.parallel import RowSlab
from refsys.parallel.batch_layouts import RowSlabLayouts
from refsys.parallel.collectives import Exchange
from refsys.parallel.ledger import Ledger
from refsys.training.alphafold3_step import AlphaFold3Training
from refsys.training.stages import Stage
from support.atoms import with_atoms, with_labels, with_templates
from support.trunks import CONFIG, FLOAT64, random_batch, randomize

# Enough atoms for a window on each of nine ranks.
TOKENS, PADDED, ROWS, LEAST_ATOMS = 41, 44, 3, 6
# Every loss has weight.
STAGE = Stage(tokens=0, samples=0, bond=1.0, pae=1.0, confidence=1.0)
STEP, CYCLES, SAMPLES, ROLLOUT_STEPS = 3, 2, 2, 1
MODEL: ModelConfig = dataclasses.replace(
    CONFIG,
    c_s=32,
    c_z=16,
    c_token=32,
    c_atom=16,
    outer_product_width=16,
    msa_blocks=2,
    pairformer_blocks=1,
    confidence_blocks=1,
    token_blocks=1,
    atom_blocks=1,
)


@cache
def step_batch(tokens=TOKENS, padded=PADDED):
    """Return an example, padded, whose tokens have different numbers of atoms."""
    plain = random_batch(tokens, ROWS, cycles=CYCLES)
    batch = with_templates(with_labels(with_atoms(plain, least=LEAST_ATOMS)), count=1)
    return batch.padded(token=padded, alignment_row=ROWS + 1, atom=batch.sizes["atom"] + 32)


def training(
    exchange: Exchange | None = None,
    scheme: type[RowSlab] = RowSlab,
    *,
    checkpointing: bool = False,
    chunks: Chunks | None = None,
):
    """Return a training whose parameters are random, zero-initialized ones included."""
    result = AlphaFold3Training(
        MODEL,
        FLOAT64,
        stage=STAGE,
        samples=SAMPLES,
        cycles=CYCLES,
        checkpointing=checkpointing,
        chunks=chunks,
    )
    randomize(result.model)
    result.model.rollout = partial(result.model.rollout, sampler=SamplerConfig(steps=ROLLOUT_STEPS))
    if exchange is not None:
        result.layouts = RowSlabLayouts(exchange, chunks=2, scheme=scheme)
    return result


def losses_and_gradients(step, batch, ledger=None):
    """Return the loss, its parts, and every gradient of the parameters, this rank's part.

    A ledger counts both passes as phases.
    """
    ledger = ledger or Ledger()
    step.layouts.plan(batch)
    step.model.zero_grad()
    with ledger.during("forward"):
        loss = step.forward(batch, STEP)
    with ledger.during("backward"):
        step.backward(loss)
    gradients = {
        name: None if p.grad is None else p.grad.clone()
        for name, p in step.model.named_parameters()
    }
    return loss.detach(), dict(step.losses), gradients


@cache
def serial(**options):
    """Return the losses and gradients of one rank."""
    return losses_and_gradients(training(**options), step_batch())
