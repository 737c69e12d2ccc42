"""Float64 laws of the trunk: padding, permutation, checkpointing, sharding."""

import numpy as np
import pytest
import torch
from support.layouts import in_lockstep, slabs
from support.trunks import CONFIG, FLOAT64, context, random_batch, random_trunk

from refsys.batch import Batch
from refsys.losses.trunk import distogram_loss, resolved_loss, trunk_loss
from refsys.model.embedding import AlignmentEmbedding
from refsys.parallel import SingleRank

TOKENS, ROWS = 13, 6
NAMES = ("s", "z", "distogram", "resolved")


@pytest.fixture(scope="module")
def trunk():
    return random_trunk()


@pytest.fixture(scope="module")
def batch():
    return random_batch(TOKENS, ROWS, batch=2)


def loss_and_gradients(trunk, batch, cycles=2, **options):
    trunk.zero_grad()
    this = context(batch, **options)
    output = trunk(batch, this, cycles)
    loss = trunk_loss(output, batch, this.layout, FLOAT64)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in trunk.named_parameters() if p.requires_grad}
    return output, loss, gradients


def assert_close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_trunk_is_invariant_to_padding(trunk, batch):
    plain, loss, gradients = loss_and_gradients(trunk, batch)
    padded_batch = batch.padded(token=TOKENS + 5, alignment_row=ROWS + 3, bond=20)
    padded, padded_loss, padded_gradients = loss_and_gradients(trunk, padded_batch)
    assert_close(padded.s_BRW[:, :TOKENS], plain.s_BRW)
    assert_close(padded.z_BRNC[:, :TOKENS, :TOKENS], plain.z_BRNC)
    assert_close(padded.distogram_BRNK[:, :TOKENS, :TOKENS], plain.distogram_BRNK)
    assert_close(padded_loss, loss)
    for name, gradient in gradients.items():
        assert_close(padded_gradients[name], gradient)


def test_trunk_losses_are_means_over_per_example_losses(batch):
    """Examples have equal weight, whatever their resolved atoms; without any they count as zero."""
    mask = batch["pseudo_beta_mask"].clone()
    mask[1, 5:] = False
    g, layout = torch.Generator().manual_seed(1), SingleRank(TOKENS)
    for modelled in (mask, mask & torch.tensor([[True], [False]])):
        uneven = Batch({**batch, "pseudo_beta_mask": modelled}, batch.fields)
        for loss, shape in ((distogram_loss, (TOKENS, TOKENS, 64)), (resolved_loss, (TOKENS, 2))):
            logits = torch.randn(2, *shape, generator=g, dtype=torch.float64)
            together = loss(logits, uneven, layout, FLOAT64)
            apart = []
            for b in range(2):
                one = {name: t[b : b + 1] for name, t in uneven.items()}
                apart.append(loss(logits[b : b + 1], Batch(one, batch.fields), layout, FLOAT64))
            assert apart[0] != apart[1]
            assert_close(together, (apart[0] + apart[1]) / 2)


def test_msa_embedding_equals_numpy_in_float64(trunk, batch):
    """Line 1 of Algorithm 8 in NumPy: one-hot class, has_deletion, 2/π · atan(deletions / 3)."""
    embedding = next(m for m in trunk.modules() if isinstance(m, AlignmentEmbedding))
    s = torch.zeros(2, TOKENS, CONFIG.c_s_inputs, dtype=torch.float64)
    deletions = batch["deletions"][:, 0].numpy().astype(np.float64)
    parts = (
        np.eye(32)[batch["alignment"][:, 0].numpy()],
        (deletions > 0)[..., None],
        (2 / np.pi * np.arctan(deletions / 3))[..., None],
    )
    weight = embedding.linear_rows.weight.detach().numpy()
    expected = np.concatenate(parts, axis=-1) @ weight.T
    with torch.no_grad():
        found = embedding(s, batch, SingleRank(TOKENS))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_padding_law_fails_when_padding_is_unmasked(trunk, batch):
    """A mutant: padding that the mask declares real must change the result."""
    padded = batch.padded(token=TOKENS + 5)
    padded["token_mask"].fill_(True)
    with torch.no_grad():
        wrong = trunk(padded, context(padded))
        right = trunk(batch, context(batch))
    assert (wrong.z_BRNC[:, :TOKENS, :TOKENS] - right.z_BRNC).abs().max() > 1e-3


def test_permuting_tokens_permutes_the_output(trunk, batch):
    order = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(1))
    permuted = batch.permuted_tokens(order)
    with torch.no_grad():
        plain = trunk(batch, context(batch), 2)
        other = trunk(permuted, context(permuted), 2)
    assert_close(other.s_BRW, plain.s_BRW[:, order])
    assert_close(other.z_BRNC, plain.z_BRNC[:, order][:, :, order])
    assert_close(other.distogram_BRNK, plain.distogram_BRNK[:, order][:, :, order])
    assert (plain.z_BRNC[:, order] - plain.z_BRNC).abs().max() > 1e-3


def test_trunk_is_invariant_to_permutation_of_msa_rows(trunk, batch):
    order = torch.tensor([0, 3, 5, 1, 2, 4])
    permuted = {**batch, **{k: batch[k][:, :, order] for k in ("alignment", "deletions")}}
    with torch.no_grad():
        plain = trunk(batch, context(batch))
        other = trunk(type(batch)(permuted), context(batch))
    assert_close(other.z_BRNC, plain.z_BRNC)


@pytest.mark.bits
@pytest.mark.parametrize("seed", [None, 7], ids=["without dropout", "with dropout"])
def test_checkpointing_preserves_loss_and_gradients(trunk, batch, seed):
    _, loss, gradients = loss_and_gradients(trunk, batch, seed=seed, step=3)
    _, again, recomputed = loss_and_gradients(trunk, batch, seed=seed, step=3, checkpointing=True)
    assert torch.equal(loss, again)
    for name, gradient in gradients.items():
        assert_close(recomputed[name], gradient)


@pytest.mark.bits
def test_dropout_is_a_function_of_seed_step_and_example(trunk, batch):
    def loss(**options):
        with torch.no_grad():
            return trunk(batch, context(batch, **options)).z_BRNC

    assert torch.equal(loss(seed=7, step=3), loss(seed=7, step=torch.tensor(3)))
    for other in ({"seed": 8, "step": 3}, {"seed": 7, "step": 4}, {"seed": None}):
        assert not torch.equal(loss(seed=7, step=3), loss(**other))


def test_examples_of_a_batch_are_independent(trunk, batch):
    """Includes dropout, whose masks are keyed by example, not by index in the tensor."""
    second = type(batch)({name: tensor[1:] for name, tensor in batch.items()})
    with torch.no_grad():
        both = trunk(batch, context(batch, seed=7))
        alone = trunk(second, context(second, seed=7))
    for name, together, single in zip(NAMES, both, alone, strict=True):
        torch.testing.assert_close(together[1:], single, rtol=1e-10, atol=1e-10, msg=name)


def test_gradients_flow_through_the_last_cycle_only(trunk, batch):
    """The state that enters the last cycle is a constant for the gradient."""
    _, _, gradients = loss_and_gradients(trunk, batch, cycles=2)
    trunk.zero_grad()
    this = context(batch)
    with torch.no_grad():
        first = trunk(batch, this, 1)
    recycled = trunk.recycling_embedder(first.s_BRW, first.z_BRNC, this)
    embedded = trunk.recycling_embedder.forward
    trunk.recycling_embedder.forward = lambda s, z, context: recycled
    try:
        output = trunk(batch, this, 1)
    finally:
        trunk.recycling_embedder.forward = embedded
    trunk_loss(output, batch, this.layout, FLOAT64).backward()
    for name, parameter in trunk.named_parameters():
        if parameter.requires_grad:
            assert_close(parameter.grad, gradients[name])


@pytest.mark.bits
def test_cycles_use_different_msa_rows(trunk):
    batch = random_batch(TOKENS, ROWS, cycles=3)

    @torch.no_grad()
    def pairs(cycles, *rows):
        fields = ("alignment", "deletions", "alignment_row_mask")
        subset = type(batch)({**batch, **{name: batch[name][:, list(rows)] for name in fields}})
        return trunk(subset, context(subset), cycles).z_BRNC

    assert torch.equal(pairs(1, 0, 1, 2), pairs(1, 0))
    assert torch.equal(pairs(2, 0, 1, 2), pairs(2, 0, 1))
    assert not torch.equal(pairs(2, 0, 1), pairs(2, 1, 0))
    assert not torch.equal(pairs(2, 0, 1), pairs(2, 0, 2))
    assert not torch.equal(pairs(2, 0, 1), pairs(2, 2, 1))
    # A batch with rows for fewer cycles reuses them.
    assert torch.equal(pairs(3, 0, 1), pairs(3, 0, 1, 0))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_sharded_trunk_equals_unsharded(trunk, batch, ranks):
    """Includes dropout, uneven slabs and uneven channel shares."""

    def program(layout):
        this = context(batch, layout, seed=7, step=3)
        output = trunk(batch, this, 2)
        return (*output, trunk_loss(output, batch, layout, FLOAT64))

    with torch.no_grad():
        this = context(batch, seed=7, step=3)
        whole = trunk(batch, this, 2)
        loss = trunk_loss(whole, batch, this.layout, FLOAT64)
    for (start, stop), result in zip(
        slabs(TOKENS, ranks), in_lockstep(TOKENS, ranks, program), strict=True
    ):
        for name, slab, full in zip(NAMES, result, whole, strict=False):
            torch.testing.assert_close(slab, full[:, start:stop], rtol=1e-9, atol=1e-9, msg=name)
        assert_close(result[-1], loss)


def test_dropout_masks_are_shared_keyed_and_have_the_right_rate(trunk, batch):
    wide = batch.padded(token=400)
    masks = trunk.dropout_masks(context(wide, seed=7, step=3), torch.device("cpu"))
    assert len({mask.data_ptr() for mask in masks}) == len(masks)
    pair = [mask for mask in masks if mask.shape[-1] == trunk.config.c_z]
    assert len(pair) == 4 * (trunk.config.msa_blocks + trunk.config.pairformer_blocks)
    for mask in pair:
        assert mask.shape == (2, 400, trunk.config.c_z)
        assert abs(mask.float().mean() - 0.75) < 0.02
    short = trunk.dropout_masks(context(batch, seed=7, step=3), torch.device("cpu"))
    for wide_mask, mask in zip(masks, short, strict=True):
        assert torch.equal(wide_mask[:, :TOKENS], mask)
    assert trunk.dropout_masks(context(batch), torch.device("cpu")) is None
