"""Faults of a divided step that its comparison with the whole one must find."""

import dataclasses
from functools import cache

import pytest
import torch
from support.rank_threads import on_ranks
from support.trunks import CONFIG, FLOAT64, random_batch, randomize

from refsys.parallel.batch_layouts import RowSlabLayouts
from refsys.parallel.collectives import GroupExchange
from refsys.parallel.ledger import Ledger
from refsys.parallel.row_slab import RowSlab
from refsys.parallel.schemes import MegaFold
from refsys.training.step import TrunkTraining

# Equal slabs and chunks, so that a fault is not found by a shape.
RANKS, TOKENS = 4, 14
# Few channels, so that the bias of attention is streamed.
MODEL = dataclasses.replace(CONFIG, pairformer_blocks=1, c_z=16)
BATCH = random_batch(TOKENS, 4).padded(token=TOKENS + 2)


class DroppedReduction(RowSlab):
    def sum_ranks(self, x):
        return x


class ReversedHop(RowSlab):
    def _request(self, x, axis, hop):
        return super()._request(x, axis, self.ranks - hop)


class StaleMask(RowSlab):
    def local(self, x, axis):
        if x.dtype == torch.bool:
            return x.narrow(axis, 0, self.stop - self.start)
        return super().local(x, axis)


class SwappedChunks(RowSlab):
    def _by_rank_and_chunk(self, x_BRNC, widths):
        chunks = super()._by_rank_and_chunk(x_BRNC, widths)
        # Those of the first operand alone: both would be swapped back on the way to the rows.
        self.swapped = not getattr(self, "swapped", False)
        return chunks[::-1] if self.swapped else chunks


class DifferentSeeds(RowSlab):
    """Leave the moves right; the training adds the rank to the seed of dropout."""


MUTANTS = (DroppedReduction, ReversedHop, StaleMask, SwappedChunks, DifferentSeeds, MegaFold)


def gradients(layouts=None, seed=0):
    training = TrunkTraining(MODEL, FLOAT64, seed=seed, checkpointing=False)
    randomize(training.model)
    training.layouts = layouts or training.layouts
    training.layouts.plan(BATCH)
    loss = training.forward(BATCH, 2)
    training.backward(loss)
    found = [p.grad for p in training.parameters]
    return loss.detach(), found


@cache
def serial():
    return gradients()


def largest_error(scheme):
    """Return the largest error of loss and summed gradients, relative to each largest value."""

    def program(rank):
        layouts = RowSlabLayouts(GroupExchange(ledger=Ledger()), chunks=2, scheme=scheme)
        return gradients(layouts, seed=rank if scheme is DifferentSeeds else 0)

    results = on_ranks(RANKS, program)
    loss, expected = serial()
    errors = [float(((result[0] - loss) / loss).abs()) for result in results]
    largest = max(float(gradient.abs().max()) for gradient in expected if gradient is not None)
    for number, gradient in enumerate(expected):
        if gradient is None or gradient.abs().max() < 1e-12 * largest:
            continue
        total = sum(result[1][number] for result in results)
        errors.append(float((total - gradient).abs().max() / gradient.abs().max()))
    return max(errors)


def test_comparison_is_exact_without_a_fault():
    assert largest_error(RowSlab) < 1e-10


@pytest.mark.parametrize("mutant", MUTANTS)
def test_fault_of_a_divided_step_is_found(mutant):
    assert largest_error(mutant) > 1e-4
