"""Language model against naive implementations: attention, loss, norms, a training step."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import flex_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from refsys.errors import ArgumentError
from refsys.precision import PRECISIONS
from workloads.language_model import alibi_flash, attention
from workloads.language_model.attention import (
    FLASH_ON_CPU,
    MATERIALIZED,
    Alibi,
    Rotary,
    causal_blocks,
)
from workloads.language_model.losses import (
    IGNORED,
    chunked_cross_entropy,
    plain_cross_entropy,
    usual_rows,
)
from workloads.language_model.model import EPSILON, RMSNorm
from workloads.language_model.presets import PRESETS, LanguageModelConfig
from workloads.language_model.training import LanguageModelTraining, Options, synthetic_text

DOUBLE = PRECISIONS["float64"]
BLOOM, LLAMA = PRESETS["bloom-tiny"], PRESETS["llama-tiny"]
TOKENS = 37


def queries_keys_values(config: LanguageModelConfig, tokens=TOKENS):
    generator = torch.Generator().manual_seed(1)
    shape = 3, 2, config.heads, tokens, config.head_width
    return [
        x.requires_grad_() for x in torch.randn(shape, dtype=torch.float64, generator=generator)
    ]


def gradients(attend, inputs):
    out = attend(*inputs)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    return [out, *torch.autograd.grad((out * weights).sum(), inputs)]


def by_hand(q, k, v):
    """Compute ALiBi by its definition, element by element: slopes 2^(−8 i / n), i from 1."""
    batch, heads, tokens, width = q.shape
    out = torch.zeros_like(q)
    for b in range(batch):
        for h in range(heads):
            slope = 2.0 ** (-8.0 * (h + 1) / heads)
            for i in range(tokens):
                logits = [
                    float(q[b, h, i] @ k[b, h, j]) / math.sqrt(width) - slope * (i - j)
                    for j in range(i + 1)
                ]
                weights = [math.exp(x - max(logits)) for x in logits]
                for j, weight in enumerate(weights):
                    out[b, h, i] += weight / sum(weights) * v[b, h, j]
    return out


def test_plain_alibi_equals_its_definition():
    inputs = [x.detach() for x in queries_keys_values(BLOOM, 7)]
    found = Alibi(BLOOM, DOUBLE, 7).attend_with(MATERIALIZED)(*inputs)
    torch.testing.assert_close(found, by_hand(*inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rows", [TOKENS, 10, 1])
def test_fused_alibi_equals_plain_alibi(monkeypatch, rows):
    """Blocks: one, several with a shorter last one, and single rows."""
    monkeypatch.setattr(alibi_flash, "BIAS_BYTES", rows * (BLOOM.heads + 1) * TOKENS * 8)
    alibi, inputs = Alibi(BLOOM, DOUBLE, TOKENS), queries_keys_values(BLOOM)
    assert alibi_flash._rows(inputs[0], alibi.slopes_H) == rows
    for one, other in zip(
        gradients(alibi.attend_with(FLASH_ON_CPU), inputs),
        gradients(alibi.attend_with(MATERIALIZED), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_alibi_operator_passes_opcheck():
    alibi, inputs = Alibi(BLOOM, DOUBLE, 5), queries_keys_values(BLOOM, 5)
    checks = "test_schema", "test_autograd_registration", "test_faketensor"
    arguments = (*inputs, alibi.slopes_H)
    torch.library.opcheck(alibi_flash.alibi_attention, arguments, test_utils=checks)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_alibi_equals_plain_alibi():
    """Forward only: FlexAttention has no backward pass on a CPU."""
    inputs = [x.detach().float() for x in queries_keys_values(BLOOM, 130)]
    alibi = Alibi(BLOOM, PRECISIONS["float32"], 130)
    mask = causal_blocks(130, torch.device("cpu"))
    found = flex_attention(*inputs, score_mod=alibi.score, block_mask=mask)
    torch.testing.assert_close(
        found, alibi.attend_with(MATERIALIZED)(*inputs), rtol=1e-5, atol=2e-6
    )
    dense = alibi.attend_with(attention.DENSE_BIAS)(*inputs)
    torch.testing.assert_close(
        dense, alibi.attend_with(MATERIALIZED)(*inputs), rtol=1e-5, atol=2e-6
    )


def test_fused_rotary_equals_plain_rotary():
    rotary, inputs = Rotary(LLAMA, DOUBLE, TOKENS), queries_keys_values(LLAMA)
    for one, other in zip(
        gradients(rotary.attend_with(FLASH_ON_CPU), inputs),
        gradients(rotary.attend_with(MATERIALIZED), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_rotary_products_depend_only_on_distance():
    """Rotation also preserves lengths."""
    rotary = Rotary(LLAMA, DOUBLE, TOKENS)
    q, k, _ = queries_keys_values(LLAMA, 1)
    rotated_q, rotated_k = (rotary.rotated(x.expand(-1, -1, TOKENS, -1)) for x in (q, k))
    products = rotated_q @ rotated_k.transpose(-1, -2)
    for distance in (-20, -1, 0, 3):
        along = products.diagonal(distance, -2, -1)
        torch.testing.assert_close(along, along[..., :1].expand_as(along), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(products.diagonal(0, -2, -1)[..., 0], products[..., 5, 0])
    lengths = rotated_q.norm(dim=-1)
    torch.testing.assert_close(lengths, q.norm(dim=-1).expand_as(lengths), rtol=1e-12, atol=0)


def test_attention_is_causal():
    for positions in (Alibi(BLOOM, DOUBLE, TOKENS), Rotary(LLAMA, DOUBLE, TOKENS)):
        q, k, v = (x.detach() for x in queries_keys_values(BLOOM))
        for implementation in (FLASH_ON_CPU, MATERIALIZED):
            before = positions.attend_with(implementation)(q, k, v)
            changed = [torch.cat([x[:, :, :20], x[:, :, 20:] + 1.0], dim=2) for x in (q, k, v)]
            after = positions.attend_with(implementation)(*changed)
            torch.testing.assert_close(before[:, :, :20], after[:, :, :20], rtol=1e-12, atol=0)
            assert not torch.allclose(before[:, :, 20:], after[:, :, 20:])


def head_inputs(tokens=23, width=6, vocabulary=50):
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(tokens, width, dtype=torch.float64, generator=generator)
    weight = torch.randn(vocabulary, width, dtype=torch.float64, generator=generator)
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


@pytest.mark.parametrize("rows", [1, 5, 23, 100])
@pytest.mark.parametrize("ignored", [0, 9, 23])
def test_chunked_loss_and_gradients_equal_the_plain_ones(rows, ignored):
    hidden, weight, targets = head_inputs()
    targets[torch.randperm(23, generator=torch.Generator().manual_seed(3))[:ignored]] = IGNORED
    plain = plain_cross_entropy(hidden, weight, targets, losses=torch.float64)
    chunked = chunked_cross_entropy(hidden, weight, targets, losses=torch.float64, rows=rows)
    torch.testing.assert_close(chunked, plain, rtol=1e-13, atol=0)
    # Scaled, so that the incoming gradient is not 1.
    ours = torch.autograd.grad(3.0 * chunked, (hidden, weight))
    theirs = torch.autograd.grad(3.0 * plain, (hidden, weight))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)
    assert (ours[0][targets == IGNORED] == 0).all()


def test_chunked_loss_raises_when_differentiated_twice():
    hidden, weight, targets = head_inputs()
    loss = chunked_cross_entropy(hidden, weight, targets, losses=torch.float64, rows=4)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated only once"):
        loss.backward()


def test_chunked_loss_is_correct_without_gradients():
    hidden, weight, targets = head_inputs()
    with torch.no_grad():
        loss = chunked_cross_entropy(hidden, weight, targets, losses=torch.float64, rows=4)
        expected = F.cross_entropy(hidden @ weight.t(), targets)
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    with pytest.raises(ArgumentError, match="rows=0 is less than 1"):
        chunked_cross_entropy(hidden, weight, targets, losses=torch.float64, rows=0)
    assert [usual_rows(tokens) for tokens in (1, 64, 66, 768, 1024, 8192)] == [
        *(1, 32, 33, 256, 256, 256)
    ]


def test_rms_norm_equals_torch():
    norm = RMSNorm(16, DOUBLE)
    x = torch.randn(3, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    x.requires_grad_()
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 2, 16, dtype=torch.float64))
    weights = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape)
    ours = norm(x)
    theirs = F.rms_norm(x, (16,), norm.weight, EPSILON)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
    for one, other in zip(
        torch.autograd.grad((ours * weights).sum(), (x, norm.weight)),
        torch.autograd.grad((theirs * weights).sum(), (x, norm.weight)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)
    # Invariant to the scale of the input.
    torch.testing.assert_close(norm(7.0 * x), ours, rtol=1e-4, atol=1e-4)


def step(config, *, seed=5, batch=2, tokens=TOKENS, updates=0, **options):
    """Return loss and gradients by name in float64, after `updates` updates."""
    training = LanguageModelTraining(config, DOUBLE, Options(tokens=tokens, **options))
    training.initialize(seed)
    for number in range(updates + 1):
        text = synthetic_text(
            seed, number, vocabulary=config.vocabulary, tokens=tokens, batch=batch
        )
        loss = training.loss(text)
        loss.backward()
        if number < updates:
            training.update()
    named = training.model.named_parameters()
    return loss.detach(), {name: parameter.grad.clone() for name, parameter in named}


@pytest.mark.parametrize("config", [BLOOM, LLAMA], ids=["bloom", "llama"])
def test_fair_variant_equals_naive_variant(config):
    """Loss and all gradients, including that of the tied weight, after one update."""
    fair_loss, fair = step(config, variant="fair", rows=17, updates=1)
    naive_loss, naive = step(config, variant="naive", updates=1)
    torch.testing.assert_close(fair_loss, naive_loss, rtol=1e-10, atol=0)
    assert fair.keys() == naive.keys()
    for name, gradient in fair.items():
        scale = naive[name].abs().max()
        assert scale > 0, name
        assert (gradient - naive[name]).abs().max() < 1e-8 * scale, name


@pytest.mark.bits
@pytest.mark.parametrize("variant", ["fair", "naive"])
def test_checkpointing_preserves_loss_and_gradients(variant):
    saved_loss, saved = step(BLOOM, variant=variant, rows=9)
    recomputed_loss, recomputed = step(BLOOM, variant=variant, rows=9, checkpointing=True)
    assert torch.equal(saved_loss, recomputed_loss)
    for name, gradient in saved.items():
        assert torch.equal(gradient, recomputed[name]), name


class Sizes(TorchDispatchMode):
    """Record the shapes of all results of operators."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.shapes |= {tuple(x.shape) for x in tree_leaves(out) if isinstance(x, torch.Tensor)}
        return out


@pytest.mark.parametrize("variant", ["fair", "naive"])
def test_only_naive_materializes_all_logits(variant):
    with Sizes() as recorded:
        step(BLOOM, variant=variant, rows=usual_rows(2 * TOKENS))
    vocabulary = [math.prod(s) for s in recorded.shapes if BLOOM.vocabulary in s]
    logits = 2 * TOKENS * BLOOM.vocabulary
    # The weight itself is as large as the logits of 128 tokens.
    assert BLOOM.width * BLOOM.vocabulary in vocabulary
    assert (logits in vocabulary) == (variant == "naive")
    attention_logits = (2, BLOOM.heads, TOKENS, TOKENS) in recorded.shapes
    assert attention_logits == (variant == "naive")


def test_synthetic_text_depends_only_on_its_keys():
    def text(first, batch):
        return synthetic_text(1, 3, vocabulary=99, tokens=20, batch=batch, first=first)

    assert torch.equal(torch.cat([text(0, 2), text(2, 1)]), text(0, 3))
    assert text(0, 3).shape == (3, 21)
    assert text(0, 1).max() < 99
    assert not torch.equal(text(0, 1), synthetic_text(1, 4, vocabulary=99, tokens=20, batch=1))


def test_training_reduces_the_loss_on_one_text():
    """A check of the complete step: repeated training on one text must fit it."""
    training = LanguageModelTraining(BLOOM, PRECISIONS["float32"], Options(tokens=16, rows=4))
    training.initialize(0)
    text = synthetic_text(0, 0, vocabulary=BLOOM.vocabulary, tokens=16, batch=1)
    losses = []
    for _ in range(25):
        loss = training.loss(text)
        loss.backward()
        training.update()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(math.log(BLOOM.vocabulary), rel=0.05)
    assert losses[-1] < 0.8 * losses[0]
