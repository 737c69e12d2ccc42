"""Diffusion module, template embedder and confidence head: parameter counts, float64 laws."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from support.atoms import with_atoms, with_templates
from support.trunks import CONFIG, FLOAT64, context, random_batch, randomize, whole
from torch import nn
from torch.utils import _pytree as pytree

from refsys.batch import ATOM_HALO
from refsys.config import PRESETS
from refsys.data.vocabulary import GAP
from refsys.model.atom_attention import (
    AtomAttentionEncoder,
    AtomConditioning,
    AtomTransformer,
    key_windows,
    query_windows,
)
from refsys.model.atom_tokens import of_tokens, sum_by_token
from refsys.model.conditioning import AdaptiveLayerNorm, ConditionedTransition
from refsys.model.confidence import ConfidenceHead
from refsys.model.diffusion import (
    SIGMA_DATA,
    DiffusionModule,
    SamplerConfig,
    sample,
)
from refsys.model.template import TemplateEmbedder, TemplateFeatures, template_features
from refsys.parallel import SingleRank
from refsys.precision import PRECISIONS

# Counted from the released model, without its two unused duplicate pair embeddings.
ORACLE = {
    "input_atom_encoder": (35_024, 197_024, 1_041_440, 1_041_440, 1_041_440),
    "template": (10_272, 37_056, 139_648, 255_744, 255_744),
    "diffusion_conditioning": (84_042, 641_418, 2_421_066, 2_421_066, 2_421_066),
    "diffusion_atom_encoder": (37_520, 223_072, 1_142_688, 1_142_688, 1_142_688),
    "token_transformer": (140_448, 8_268_864, 49_585_280, 99_170_432, 198_340_736),
    "diffusion_norms": (4_224, 74_304, 296_064, 296_064, 296_064),
    "diffusion_atom_decoder": (21_960, 181_776, 1_036_368, 1_036_368, 1_036_368),
    "confidence": (199_264, 1_052_928, 6_758_784, 12_900_480, 12_900_480),
}


@pytest.mark.parametrize("number", range(5), ids=list(PRESETS))
def test_parameter_counts_equal_the_released_model(number):
    config, precision = list(PRESETS.values())[number], PRECISIONS["float32"]
    with torch.device("meta"):
        parts = DiffusionModule(config, precision).components() | {
            "input_atom_encoder": [AtomAttentionEncoder(config, precision)],
            "template": [TemplateEmbedder(config, precision)],
            "confidence": [ConfidenceHead(config, precision)],
        }
    counts = {
        name: sum(p.numel() for p in nn.ModuleList(ms).parameters()) for name, ms in parts.items()
    }
    assert counts == {name: row[number] for name, row in ORACLE.items()}


TOKENS, SAMPLES = 17, 3
G = torch.Generator().manual_seed(2)


def normal(*shape):
    return torch.randn(shape, generator=G, dtype=torch.float64)


@pytest.fixture(scope="module")
def batch():
    return with_atoms(random_batch(TOKENS, 3, batch=2))


@pytest.fixture(scope="module")
def diffusion():
    module = DiffusionModule(CONFIG, FLOAT64)
    randomize(module)
    return module


@pytest.fixture(scope="module")
def inputs():
    s_inputs, s = normal(2, TOKENS, CONFIG.c_s_inputs), normal(2, TOKENS, CONFIG.c_s)
    return s_inputs, s, normal(2, TOKENS, TOKENS, CONFIG.c_z)


def noised(batch):
    return SIGMA_DATA * normal(2, SAMPLES, batch.sizes["atom"], 3), normal(2, SAMPLES).exp()


def denoised(diffusion, inputs, x, sigma, batch, **options):
    this = context(batch, **options)
    return diffusion(x, sigma, diffusion.condition(*inputs, batch, this), batch, this)


def test_query_and_key_windows_contain_the_documented_atoms():
    x = torch.arange(96.0)[None]
    layout = SingleRank(1)
    queries, keys = query_windows(x, 1), key_windows(x, 1, layout)
    assert queries.shape == (1, 3, 32)
    assert keys.shape == (1, 3, 128)
    assert queries[0, 1].tolist() == list(range(32, 64))
    assert keys[0, 1].tolist() == [0.0] * 16 + list(range(96)) + [0.0] * 16
    assert not key_windows(torch.ones(1, 32, dtype=torch.bool), 1, layout)[0, 0, :ATOM_HALO].any()


@pytest.mark.bits
def test_atom_attention_reaches_exactly_48_atoms_beyond_a_window():
    """The output of a window changes exactly if an atom within reach changes."""
    atoms = 32 * 6
    module = AtomTransformer(CONFIG, FLOAT64)
    randomize(module)
    q, c = normal(1, 1, atoms, CONFIG.c_atom), normal(1, 1, atoms, CONFIG.c_atom)
    p = normal(1, 6, 32, 128, CONFIG.c_atompair)
    mask = torch.ones(1, atoms, dtype=torch.bool)
    this = context(random_batch(4, 1))

    def window(q, c):
        with torch.no_grad():
            return module(q, module.condition(AtomConditioning(c, p)), mask, this)[:, :, 96:128]

    plain = window(q, c)
    # A different change per channel, because LayerNorm removes a constant one.
    change = normal(CONFIG.c_atom)
    # CONFIG has one atom block, so the reach of the model is that of one window.
    for index in range(atoms):
        q2, c2 = q.clone(), c.clone()
        q2[:, :, index] += change
        c2[:, :, index] += change
        changed = not torch.equal(window(q2, c2), plain)
        assert changed == (96 - ATOM_HALO <= index < 128 + ATOM_HALO), index


def reference_features(batch):
    """Return one-hot features [B, A, 389] float64 in NumPy (line 1 of Algorithm 5)."""
    element = np.eye(128)[batch["reference_element"].numpy()]
    letters = np.eye(64)[batch["reference_name"].numpy()]
    parts = (
        batch["reference_position"].numpy().astype(np.float64),
        batch["reference_mask"].numpy()[..., None],
        element,
        np.arcsinh(batch["reference_charge"].numpy().astype(np.float64))[..., None],
        letters.reshape(*letters.shape[:2], -1),
    )
    return np.concatenate(parts, axis=-1)


def test_reference_embedding_is_a_linear_map_masked_by_the_reference_mask(diffusion, batch):
    """The reference is NumPy in float64, including the arcsinh of the charge."""
    embedding = diffusion.atom_encoder.reference
    weight = embedding.linear.weight.detach().numpy()
    expected = reference_features(batch) @ weight.T
    expected *= batch["reference_mask"].numpy()[..., None]
    with torch.no_grad():
        found = embedding.single(batch, whole(batch))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)
    missing = batch["atom_mask"] & ~batch["reference_mask"]
    assert missing.any()
    assert (found[missing] == 0).all()


def test_initial_atoms_sum_reference_embedding_projected_single_and_positions(
    diffusion, batch, inputs
):
    """As in the released code: q is c (with the trunk's single) plus embedded positions."""
    encoder, s = diffusion.atom_encoder, inputs[1].numpy()
    standard = (s - s.mean(-1, keepdims=True)) / np.sqrt(s.var(-1, keepdims=True) + 1e-5)
    norm, linear = encoder.norm_s.weight.detach().numpy(), encoder.linear_s.weight.detach().numpy()
    projected = (standard * norm) @ linear.T
    token = batch["atom_token"].clamp(min=0).long().numpy()
    with torch.no_grad():
        condition = diffusion.condition(*inputs, batch, context(batch))
        expected = encoder.reference.single(batch, whole(batch)).numpy()
    expected = expected + np.take_along_axis(projected, token[..., None], axis=1)
    initial = condition.initial_B1OC.squeeze(1).numpy()
    np.testing.assert_allclose(initial, expected, rtol=1e-10, atol=1e-10)
    captured = []
    hook = encoder.transformer.register_forward_pre_hook(
        lambda module, arguments: captured.append(arguments[0])
    )
    x, sigma = noised(batch)
    with torch.no_grad():
        diffusion(x, sigma, condition, batch, context(batch))
    hook.remove()
    scaled = (x / (sigma**2 + SIGMA_DATA**2).sqrt()[..., None, None]).numpy()
    positions = scaled @ encoder.linear_position.weight.detach().numpy().T
    positions = positions * batch["atom_mask"].numpy()[:, None, :, None]
    expected = initial[:, None] + positions
    np.testing.assert_allclose(captured[0].numpy(), expected, rtol=1e-10, atol=1e-10)


def test_sum_by_token_and_of_tokens_map_atoms_and_tokens():
    token = torch.tensor([[0, 0, 2, -1], [1, 1, 1, 2]], dtype=torch.int32)
    x = normal(2, 2, 4, 5)
    sums = sum_by_token(x, token, 3)
    torch.testing.assert_close(sums[0, :, 0], x[0, :, 0] + x[0, :, 1])
    assert (sums[0, :, 1] == 0).all()
    torch.testing.assert_close(sums[0, :, 2], x[0, :, 2])
    atoms = of_tokens(sums, {"atom_token": token}, SingleRank(3))
    assert torch.equal(atoms[1, :, 2], sums[1, :, 1])


def test_shared_conditioning_equals_conditioning_per_sample(diffusion, batch, inputs):
    """The conditioning is computed once and broadcast, or once for every sample."""
    x, sigma = noised(batch)
    this = context(batch)
    with torch.no_grad():
        shared = diffusion.condition(*inputs, batch, this)
        together = diffusion(x, sigma, shared, batch, this)
        for number in range(SAMPLES):
            single = diffusion.condition(*inputs, batch, this)
            alone = diffusion(x[:, number, None], sigma[:, number, None], single, batch, this)
            torch.testing.assert_close(together[:, number, None], alone, rtol=1e-11, atol=1e-11)
        unshared = pytree.tree_map(
            lambda t: t.expand(-1, SAMPLES, -1, -1) if t.dim() == 4 and t.shape[1] == 1 else t,
            shared,
        )
        assert unshared.encoder[0].gate_B1AC.shape[1] == SAMPLES
        apart = diffusion(x, sigma, unshared, batch, this)
    torch.testing.assert_close(together, apart, rtol=1e-11, atol=1e-11)


def test_denoised_positions_are_invariant_to_padding(diffusion, batch, inputs):
    x, sigma = noised(batch)
    more = batch.padded(token=TOKENS + 4, atom=batch.sizes["atom"] + 64)
    s_inputs, s, z = (nn.functional.pad(t, (0, 0, 0, 4)) for t in inputs)
    z = nn.functional.pad(z, (0, 0, 0, 0, 0, 4))
    with torch.no_grad():
        plain = diffusion(
            x, sigma, diffusion.condition(*inputs, batch, context(batch)), batch, context(batch)
        )
        this = context(more)
        wide = nn.functional.pad(x, (0, 0, 0, 64))
        padded = diffusion(wide, sigma, diffusion.condition(s_inputs, s, z, more, this), more, this)
    real = batch["atom_mask"]
    torch.testing.assert_close(
        padded[:, :, : batch.sizes["atom"]][:, :, real[0]],
        plain[:, :, real[0]],
        rtol=1e-10,
        atol=1e-10,
    )
    assert (padded[:, :, batch.sizes["atom"] :] == 0).all()


def test_checkpointing_preserves_gradients(diffusion, batch, inputs):
    x, sigma = noised(batch)
    found = []
    for checkpointing in (False, True):
        diffusion.zero_grad()
        this = context(batch, checkpointing=checkpointing)
        diffusion(
            x, sigma, diffusion.condition(*inputs, batch, this), batch, this
        ).square().sum().backward()
        found.append([p.grad.clone() for p in diffusion.parameters()])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


def test_denoiser_is_the_identity_without_noise(diffusion, batch, inputs):
    """The limit of vanishing noise."""
    x, _ = noised(batch)
    sigma = torch.full((2, SAMPLES), 1e-6, dtype=torch.float64)
    with torch.no_grad():
        out = denoised(diffusion, inputs, x, sigma, batch)
    masked = x * batch["atom_mask"][:, None, :, None]
    torch.testing.assert_close(out, masked, rtol=1e-4, atol=1e-4)


def test_adaptive_layers_equal_their_formulas():
    norm, transition = AdaptiveLayerNorm(4, 6, FLOAT64), ConditionedTransition(4, 6, FLOAT64)
    randomize(norm)
    randomize(transition)
    a, c = normal(1, 2, 3, 6), normal(1, 2, 3, 4)

    def standard(x):
        return (x - x.mean(-1, keepdim=True)) / (
            x.var(-1, unbiased=False, keepdim=True) + 1e-5
        ).sqrt()

    signal = standard(c) * norm.norm_condition.weight
    scale = signal @ norm.linear_scale.weight.T + norm.linear_scale.bias
    expected = scale.sigmoid() * standard(a) + signal @ norm.linear_shift.weight.T
    torch.testing.assert_close(norm(a, norm.condition(c)), expected)
    x = transition.norm(a, transition.norm.condition(c)) @ transition.linear_in.weight.T
    hidden = x[..., :12] * x[..., :12].sigmoid() * x[..., 12:]
    gate = (c @ transition.gate.linear.weight.T + transition.gate.linear.bias).sigmoid()
    expected = a + gate * (hidden @ transition.linear_out.weight.T)
    torch.testing.assert_close(transition(a, transition.condition(c)), expected)


class TestSampler:
    def test_noise_levels_equal_the_published_schedule(self):
        levels = SamplerConfig().levels()
        assert len(levels) == 201
        assert levels[0] == pytest.approx(160 * 16)
        assert levels[-1] == pytest.approx(4e-4 * 16)
        assert all(b < a for a, b in pairwise(levels))

    def test_sampler_converges_to_the_structure_of_a_perfect_denoiser(self):
        truth, mask = normal(1, 1, 20, 3), torch.ones(1, 20, dtype=torch.bool)
        mask[:, -2:] = False
        found = sample(
            lambda x, sigma: truth.expand_as(x),
            mask,
            normal(51, 1, 2, 20, 3),
            lambda x, step: x,
            SamplerConfig(steps=50),
        )
        error = (found - truth)[:, :, :-2].abs().max()
        assert error < 0.05
        assert (found[:, :, -2:] == 0).all()


def templates(tokens, count=2):
    rotation = torch.linalg.qr(normal(2, count, tokens, 3, 3))[0]
    chain = torch.arange(tokens) * 2 // tokens
    return TemplateFeatures(
        torch.randint(0, 31, (2, count, tokens), generator=G),
        8 * normal(2, count, tokens, 3),
        torch.rand(2, count, tokens, generator=G) > 0.2,
        rotation,
        8 * normal(2, count, tokens, 3),
        torch.rand(2, count, tokens, generator=G) > 0.2,
        chain.expand(2, tokens),
    )


def with_empty_slots(features, count):
    """Append slots of gaps without positions to the templates."""
    blank = {"residue_type_BMN": GAP, "frame_rotation_BMN33": torch.eye(3, dtype=torch.float64)}
    slots = {}
    for name, tensor in features._asdict().items():
        if name == "chain_BN":
            continue
        empty = torch.zeros(tensor.shape[0], count, *tensor.shape[2:], dtype=tensor.dtype)
        slots[name] = torch.cat([tensor, empty + blank.get(name, 0)], dim=1).to(tensor.dtype)
    return features._replace(**slots)


@pytest.fixture(scope="module")
def embedder():
    module = TemplateEmbedder(CONFIG, FLOAT64)
    randomize(module)
    return module


@pytest.fixture(scope="module")
def head():
    module = ConfidenceHead(CONFIG, FLOAT64)
    randomize(module)
    return module


class TestTemplates:
    def out(self, embedder, features, z, batch):
        mask = batch["token_mask"].unsqueeze(2) & batch["token_mask"].unsqueeze(1)
        with torch.no_grad():
            return embedder(z, features, mask, context(batch))

    def test_embedding_is_invariant_to_rigid_motion_of_a_template(self, embedder, batch, inputs):
        features = templates(TOKENS)
        turn, shift = torch.linalg.qr(normal(3, 3))[0], 20 * normal(3)
        turn = turn * torch.linalg.det(turn).sign()
        moved = features._replace(
            pseudo_beta_BMN3=features.pseudo_beta_BMN3 @ turn.T + shift,
            frame_origin_BMN3=features.frame_origin_BMN3 @ turn.T + shift,
            frame_rotation_BMN33=turn @ features.frame_rotation_BMN33,
        )
        plain, other = (self.out(embedder, f, inputs[2], batch) for f in (features, moved))
        torch.testing.assert_close(other, plain, rtol=1e-9, atol=1e-9)

    def test_frames_are_gram_schmidt_in_the_dtype_of_coordinates(self, batch):
        """As in the released code: x from the middle atom to the third, y towards the first."""
        filled = with_templates(batch)
        found = template_features(filled, FLOAT64).frame_rotation_BMN33.numpy()
        n, ca, c = np.moveaxis(filled["template_backbone"].numpy().astype(np.float64), -2, 0)
        x = (c - ca) / np.linalg.norm(c - ca, axis=-1, keepdims=True)
        y = n - ca - ((n - ca) * x).sum(-1, keepdims=True) * x
        y /= np.linalg.norm(y, axis=-1, keepdims=True)
        expected = np.stack([x, y, np.cross(x, y)], axis=-1)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)

    def test_embedding_is_invariant_to_the_order_of_templates(self, embedder, batch, inputs):
        features = templates(TOKENS)
        flipped = TemplateFeatures(*(t.flip(1) if t.dim() > 2 else t for t in features))
        plain = self.out(embedder, features, inputs[2], batch)
        torch.testing.assert_close(self.out(embedder, flipped, inputs[2], batch), plain)

    @pytest.mark.bits
    def test_mean_over_templates_includes_empty_slots(self, embedder, batch, inputs):
        """With one template in four slots, the mean is the sum of four embeddings over four."""
        features = with_empty_slots(templates(TOKENS, count=1), 3)
        embeddings = []
        hook = embedder.norm_out.register_forward_hook(
            lambda module, arguments, output: embeddings.append(output)
        )
        found = self.out(embedder, features, inputs[2], batch)
        hook.remove()
        mean = sum(embeddings) / 4
        weight = embedder.linear_out.weight.detach()
        torch.testing.assert_close(found, mean.clamp(min=0) @ weight.T, rtol=1e-10, atol=1e-12)
        assert len(embeddings) == 4
        assert not torch.allclose(embeddings[0], embeddings[1])
        for empty in embeddings[2:]:
            assert torch.equal(empty, embeddings[1])

    @pytest.mark.bits
    def test_embedding_depends_only_on_pairs_without_templates(self, embedder, batch, inputs):
        empty = with_empty_slots(templates(TOKENS, count=0), 2)
        found = self.out(embedder, empty, inputs[2], batch)
        assert found.abs().max() > 0
        garbage = empty._replace(
            pseudo_beta_BMN3=empty.pseudo_beta_BMN3 + 7.0,
            frame_origin_BMN3=empty.frame_origin_BMN3 - 3.0,
        )
        assert torch.equal(self.out(embedder, garbage, inputs[2], batch), found)

    def test_embedding_ignores_distances_between_chains(self, embedder, batch, inputs):
        """The relative motion of two chains does not change the embedding."""
        features = templates(TOKENS)
        second = features.chain_BN[:, None, :, None] == 1
        moved = features._replace(
            pseudo_beta_BMN3=features.pseudo_beta_BMN3 + 9.0 * second,
            frame_origin_BMN3=features.frame_origin_BMN3 + 9.0 * second,
        )
        plain, other = (self.out(embedder, f, inputs[2], batch) for f in (features, moved))
        torch.testing.assert_close(other, plain, rtol=1e-9, atol=1e-9)


class TestConfidence:
    def out(self, head, inputs, positions, batch):
        mask = batch["token_mask"].unsqueeze(2) & batch["token_mask"].unsqueeze(1)
        return head(*inputs, positions, batch["token_mask"], mask, context(batch))

    def test_confidence_logits_have_the_expected_shapes_and_symmetry(self, head, batch, inputs):
        found = self.out(head, inputs, 8 * normal(2, TOKENS, 3), batch)
        assert found.plddt_BRMK.shape == (2, TOKENS, 24, 50)
        assert found.resolved_BRM2.shape == (2, TOKENS, 24, 2)
        assert found.pae_BRNK.shape == found.pde_BRNK.shape == (2, TOKENS, TOKENS, 64)
        torch.testing.assert_close(found.pde_BRNK, found.pde_BRNK.transpose(1, 2))
        assert not torch.allclose(found.pae_BRNK, found.pae_BRNK.transpose(1, 2))

    def test_confidence_is_invariant_to_rigid_motion_and_detached_from_the_trunk(
        self, head, batch, inputs
    ):
        positions = 8 * normal(2, TOKENS, 3)
        turn = torch.linalg.qr(normal(3, 3))[0]
        leaves = [t.clone().requires_grad_() for t in inputs]
        plain = self.out(head, leaves, positions, batch)
        moved = self.out(head, leaves, positions @ turn.T + 5.0, batch)
        for one, two in zip(plain, moved, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)
        sum(t.sum() for t in plain).backward()
        assert all(leaf.grad is None for leaf in leaves)
        assert math.isfinite(sum(float(p.grad.sum()) for p in head.parameters()))
