"""Exchanges between ranks: a poisoned exchange changes exactly the modules that cross rows.

The trunk's laws run ranks in lockstep to show that modules exchange all the data that they need.
The tests below show that those laws can fail, because the exchanged data affects the result.
"""

import pytest
import torch
from support.layouts import PoisonLayout
from support.trunks import CONFIG, FLOAT64, context, random_batch, randomize

from refsys.losses.trunk import distogram_loss, resolved_loss
from refsys.model import embedding, heads, msa, pairformer, triangle_attention
from refsys.model.attention_pair_bias import AttentionPairBias
from refsys.model.transition import Transition
from refsys.model.triangle_multiplication import (
    TriangleMultiplicationIncoming,
    TriangleMultiplicationOutgoing,
)
from refsys.parallel import SingleRank

TOKENS, ROWS = 11, 4
BATCH = random_batch(TOKENS, ROWS)
GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(1, *shape, generator=GENERATOR, dtype=torch.float64)


S = normal(TOKENS, CONFIG.c_s)
Z = normal(TOKENS, TOKENS, CONFIG.c_z)
M = normal(ROWS, TOKENS, CONFIG.c_m)
S_INPUTS = normal(TOKENS, CONFIG.c_s_inputs)
TOKEN_MASK = BATCH["token_mask"]
PAIR_MASK = TOKEN_MASK.unsqueeze(2) & TOKEN_MASK.unsqueeze(1)
ALIGNMENT_MASK = BATCH["alignment_row_mask"][:, 0].unsqueeze(2) & TOKEN_MASK.unsqueeze(1)
DISTOGRAM = normal(TOKENS, TOKENS, CONFIG.distogram_bins)
RESOLVED = normal(TOKENS, 2)


def local(layout, x, axis=1):
    return layout.local(x, axis)


def pair_module(cls, *arguments):
    def call(module, layout):
        return module(local(layout, Z), local(layout, PAIR_MASK), context(BATCH, layout))

    return cls(*arguments), call


def case(module, call):
    return module, call


C_Z, C_S = CONFIG.c_z, CONFIG.c_s
CROSSING = {
    "TriangleMultiplicationOutgoing": pair_module(
        TriangleMultiplicationOutgoing, C_Z, 0.25, FLOAT64
    ),
    "TriangleMultiplicationIncoming": pair_module(
        TriangleMultiplicationIncoming, C_Z, 0.25, FLOAT64
    ),
    "TriangleAttentionStartingNode": pair_module(
        triangle_attention.TriangleAttentionStartingNode, C_Z, 2, 0.25, FLOAT64
    ),
    "TriangleAttentionEndingNode": pair_module(
        triangle_attention.TriangleAttentionEndingNode, C_Z, 2, 0.25, FLOAT64
    ),
    "PairStack": pair_module(pairformer.PairStack, C_Z, 2, 0.25, 4, FLOAT64),
    "AttentionPairBias": case(
        AttentionPairBias(C_S, C_Z, 4, FLOAT64),
        lambda m, lay: m(local(lay, S), local(lay, Z), TOKEN_MASK, context(BATCH, lay)),
    ),
    "PairformerBlock": case(
        pairformer.PairformerBlock(CONFIG, FLOAT64),
        lambda m, lay: m(
            local(lay, S), local(lay, Z), TOKEN_MASK, local(lay, PAIR_MASK), context(BATCH, lay)
        )[0],
    ),
    "OuterProductMean": case(
        msa.OuterProductMean(CONFIG, FLOAT64),
        lambda m, lay: m(local(lay, M, 2), ALIGNMENT_MASK, context(BATCH, lay)),
    ),
    "MSAPairWeightedAveraging": case(
        msa.MSAPairWeightedAveraging(CONFIG, FLOAT64),
        lambda m, lay: m(
            local(lay, M, 2), local(lay, Z), TOKEN_MASK, context(BATCH, lay)
        ).transpose(1, 2),
    ),
    "MSAModuleBlock": case(
        msa.MSAModuleBlock(CONFIG, FLOAT64, last=True),
        lambda m, lay: m(
            local(lay, M, 2),
            local(lay, Z),
            ALIGNMENT_MASK,
            TOKEN_MASK,
            local(lay, PAIR_MASK),
            context(BATCH, lay),
        )[1],
    ),
    "InitialEmbedding": case(
        embedding.InitialEmbedding(CONFIG, FLOAT64),
        lambda m, lay: m(local(lay, S_INPUTS), BATCH, lay)[1],
    ),
    "DistogramHead": case(
        heads.DistogramHead(CONFIG, FLOAT64),
        lambda m, lay: m(local(lay, Z), context(BATCH, lay)),
    ),
}
LOCAL = {
    "Transition": case(Transition(C_Z, 4, FLOAT64), lambda m, lay: m(local(lay, Z))),
    "TokenInputEmbedder": case(
        embedding.TokenInputEmbedder(CONFIG, FLOAT64), lambda m, lay: m(BATCH, lay)
    ),
    "RelativePositionEncoding": case(
        embedding.RelativePositionEncoding(CONFIG, FLOAT64), lambda m, lay: m(BATCH, lay)
    ),
    "AlignmentEmbedding": case(
        embedding.AlignmentEmbedding(CONFIG, FLOAT64),
        lambda m, lay: m(local(lay, S_INPUTS), BATCH, lay).transpose(1, 2),
    ),
    "RecyclingEmbedder": case(
        embedding.RecyclingEmbedder(CONFIG, FLOAT64),
        lambda m, lay: m(local(lay, S), local(lay, Z), context(BATCH, lay))[1],
    ),
    "ResolvedHead": case(heads.ResolvedHead(CONFIG, FLOAT64), lambda m, lay: m(local(lay, S))),
}
# Composed of the modules above, or without rows.
CONTAINERS = {"LayerNorm", "Linear", "OneHotLinear", "MSAModule", "PairformerStack", "Trunk"}
CONTAINERS |= {"SharedDropout", "DropoutMasks"}


def slab_and_truth(module, call, rank=1, ranks=3):
    randomize(module)
    layout = PoisonLayout(TOKENS, rank, ranks)
    with torch.no_grad():
        return call(module, layout), call(module, SingleRank(TOKENS))[:, layout.start : layout.stop]


@pytest.mark.parametrize("name", CROSSING)
def test_poison_changes_modules_that_exchange_rows(name):
    slab, truth = slab_and_truth(*CROSSING[name])
    assert slab.shape == truth.shape
    assert (slab - truth).abs().max() > 1e-3


@pytest.mark.parametrize("name", LOCAL)
def test_poison_does_not_change_local_modules(name):
    slab, truth = slab_and_truth(*LOCAL[name])
    torch.testing.assert_close(slab, truth, rtol=1e-12, atol=1e-12)


def test_poison_changes_losses():
    """A loss is a sum over ranks, so poison on another rank changes it."""
    layout, whole = PoisonLayout(TOKENS, 1, 3), SingleRank(TOKENS)
    for loss, logits in ((distogram_loss, DISTOGRAM), (resolved_loss, RESOLVED)):
        poisoned = loss(local(layout, logits), BATCH, layout, FLOAT64)
        assert (poisoned - loss(logits, BATCH, whole, FLOAT64)).abs() > 1e-3


def test_modules_are_classified_as_local_or_exchanging():
    """A new module of the trunk must be added to one of the tables above."""
    from refsys.model.trunk import Trunk

    used = {type(module).__name__ for module in Trunk(CONFIG, FLOAT64).modules()}
    assert used - {"ModuleList"} == set(CROSSING) | set(LOCAL) | CONTAINERS
