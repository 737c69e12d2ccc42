"""A structure that is folded on several ranks is that of one rank, and no rank holds all pairs."""

from contextlib import nullcontext
from typing import NamedTuple

import pytest
import torch
from support.pair_guard import PairGuard
from support.rank_threads import on_ranks
from support.sharded_steps import MODEL, step_batch
from support.trunks import FLOAT64, randomize, whole

from refsys.fold import FoldConfig, Prediction, predict
from refsys.model.alphafold3 import AlphaFold3
from refsys.model.chunks import Chunks
from refsys.model.diffusion import SamplerConfig
from refsys.parallel.batch_layouts import RowSlabLayouts
from refsys.parallel.collectives import GroupExchange
from refsys.parallel.ledger import Ledger
from refsys.parallel.shares import shares, sizes

RANKS = 3
# The ranks divide neither tokens nor windows of atoms.
TOKENS, PADDED = 22, 25


class Folds(NamedTuple):
    """Predictions of one rank and of each of several.

    Attributes:
        one: Prediction of one rank, everything at once.
        several: Prediction of each rank, by chunks of rows and samples.
        large: Tensors of the rank with the largest slab that exceed four slabs of pairs.
    """

    one: Prediction
    several: list[Prediction]
    large: set[object]


def config(**chunks):
    return FoldConfig(samples=2, cycles=1, sampler=SamplerConfig(steps=2), chunks=Chunks(**chunks))


@pytest.fixture(scope="module")
def folds():
    batch = step_batch(TOKENS, PADDED)
    model = AlphaFold3(MODEL, FLOAT64)
    randomize(model)
    slabs = sizes(shares(PADDED, RANKS))
    guard = PairGuard({PADDED, *slabs}, 4 * slabs[0] * PADDED * MODEL.c_z)

    def program(rank):
        layouts = RowSlabLayouts(GroupExchange(ledger=Ledger()), chunks=2)
        layouts.plan(batch)
        # A quarter of the rows at once, as without fused kernels.
        chunks = config(rows=-(-PADDED // (4 * RANKS)), samples=1)
        with nullcontext() if rank else guard:
            return predict(model, batch, layouts.of(batch), chunks)

    several = on_ranks(RANKS, program)
    one = predict(model, batch, whole(batch), config())
    return Folds(one, several, guard.found)


def test_folds_of_several_ranks_equal_that_of_one(folds):
    """Float64, with padded tokens and atoms that the ranks do not divide."""
    for prediction in folds.several:
        for found, expected in zip(prediction, folds.one, strict=True):
            # Scores are float32.
            tolerance = 1e-8 if expected.dtype == torch.float64 else 1e-4
            torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def test_folds_of_all_ranks_have_the_same_bits(folds):
    for prediction in folds.several[1:]:
        for found, expected in zip(prediction, folds.several[0], strict=True):
            assert torch.equal(found, expected)


def test_rank_of_a_fold_holds_no_tensor_of_more_than_four_slabs_of_pairs(folds):
    assert not folds.large
