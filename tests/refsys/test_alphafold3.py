"""Full model: parameter counts, and float64 laws of a training step."""

import dataclasses

import pytest
import torch
from support.atoms import with_atoms, with_labels, with_templates
from support.trunks import CONFIG, FLOAT64, context, random_batch, randomize

from refsys.config import PRESETS
from refsys.model import augmentation
from refsys.model.alphafold3 import AlphaFold3
from refsys.model.augmentation import (
    augmented,
    noise_levels,
    random_motions,
    unit_noise,
    unit_noises,
)
from refsys.model.diffusion import SIGMA_DATA, SamplerConfig
from refsys.precision import PRECISIONS

TOTALS = dict(
    zip(PRESETS, (847_970, 14_346_682, 89_012_506, 170_938_778, 368_376_218), strict=True)
)
TOKENS = 11
SHORT = SamplerConfig(steps=3)


@pytest.mark.parametrize("name", PRESETS)
def test_components_partition_the_parameters_and_sum_to_the_released_counts(name):
    with torch.device("meta"):
        model = AlphaFold3(PRESETS[name], PRECISIONS["float32"])
    counted = [id(p) for part in model.components().values() for p in part.parameters()]
    assert len(counted) == len(set(counted)) == len(list(model.parameters()))
    assert sum(p.numel() for p in model.parameters()) == TOTALS[name]


@pytest.fixture(scope="module")
def model():
    module = AlphaFold3(dataclasses.replace(CONFIG, msa_blocks=1), FLOAT64)
    randomize(module)
    return module


@pytest.fixture(scope="module")
def batch():
    return with_templates(with_labels(with_atoms(random_batch(TOKENS, 3, batch=2))))


def run(model, batch, cycles=2, **options):
    """Return the results of a step on one batch: trunk, rollout, confidence, denoising."""
    this = context(batch, **options)
    state = model.trunk(batch, this, cycles)
    condition = model.condition(state, batch, this)
    rollout = model.rollout(condition, batch, this, seed=5, sampler=SHORT)
    confidence = model.predict_confidence(state, rollout[:, 0], batch, this)
    mask = batch["atom_mask"]
    truth = batch["atom_position"].double().unsqueeze(1).expand(-1, 2, -1, -1)
    sigma = noise_levels(this, mask, 2, seed=5).double()
    noised = augmented(truth, mask, this, 5, "training/augmentation")
    noise = unit_noise(this, mask, 2, 5, "training/noise").double()
    noised = noised + sigma[..., None, None] * noise
    denoised = model.denoise(noised, sigma, condition, batch, this)
    return {
        "s": state.s_BRW,
        "z": state.z_BRNC,
        "distogram": model.distogram_logits(state, this),
        "rollout": rollout,
        "denoised": denoised,
        "plddt": confidence.plddt_BRMK,
        "pae": confidence.pae_BRNK,
    }


ATOMS = {"rollout", "denoised"}


def test_outputs_are_invariant_to_padding_except_of_template_slots(model, batch):
    """The mean over templates includes empty slots, so an added slot changes the input."""
    atoms = batch.sizes["atom"]
    wide = batch.padded(token=TOKENS + 3, atom=atoms + 32, alignment_row=5, bond=9)
    with torch.no_grad():
        plain, padded = run(model, batch, seed=7, step=2), run(model, wide, seed=7, step=2)
    for name, expected in plain.items():
        found = padded[name]
        found = found[:, :, :atoms] if name in ATOMS else found[:, :TOKENS]
        if name in {"z", "distogram", "pae"}:
            found = found[:, :, :TOKENS]
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8, msg=name)


def test_checkpointing_preserves_outputs_and_gradients(model, batch):
    found = []
    for checkpointing in (False, True):
        model.zero_grad()
        out = run(model, batch, seed=7, step=2, checkpointing=checkpointing)
        sum(value.square().mean() for value in out.values()).backward()
        named = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append((out, named))
    for name, value in found[0][0].items():
        torch.testing.assert_close(found[1][0][name], value, msg=name)
    assert set(found[0][1]) == set(found[1][1])
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-7, atol=1e-9, msg=name)


def test_trained_parameters_receive_gradients(model, batch):
    model.zero_grad()
    sum(v.square().mean() for v in run(model, batch).values()).backward()
    idle = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    # The sum above leaves out the outputs of these heads.
    assert {name.split(".")[1] for name in idle} == {
        "norm_pde",
        "linear_pde",
        "norm_resolved",
        "linear_resolved",
    }


def test_rollout_and_confidence_head_pass_no_gradient_to_the_trunk(model, batch):
    this = context(batch)
    state = model.trunk(batch, this, 1)
    condition = model.condition(state, batch, this)
    rollout = model.rollout(condition, batch, this, seed=1, sampler=SHORT)
    assert not rollout.requires_grad
    model.zero_grad()
    sum(t.sum() for t in model.predict_confidence(state, rollout[:, 0], batch, this)).backward()
    touched = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    assert touched == {"confidence"}


@pytest.mark.bits
def test_noise_depends_only_on_its_keys(batch):
    mask = batch["atom_mask"]
    this = context(batch, step=3)
    many, few = unit_noise(this, mask, 4, 1, "a"), unit_noise(this, mask, 2, 1, "a")
    assert torch.equal(many[:, :2], few)
    assert not torch.equal(many[0], many[1]), "examples have different noise"
    wide = torch.nn.functional.pad(mask, (0, 32))
    assert torch.equal(unit_noise(this, wide, 2, 1, "a")[:, :, : mask.shape[1]], few)
    other = context(batch, step=4)
    for changed in (unit_noise(other, mask, 2, 1, "a"), unit_noise(this, mask, 2, 1, "b")):
        assert not torch.equal(changed, few)
    spread = noise_levels(this, mask, 4000, seed=2)
    logs = (spread / SIGMA_DATA).log()
    assert float(logs.mean()) == pytest.approx(-1.2, abs=0.06)
    assert float(logs.std()) == pytest.approx(1.5, abs=0.05)


@pytest.mark.bits
def test_rollout_noise_is_independent_of_the_number_of_steps(batch, monkeypatch):
    mask, this = batch["atom_mask"], context(batch, step=3)
    many = unit_noises(this, mask, 2, 1, "a", 5)
    assert torch.equal(many[:3], unit_noises(this, mask, 2, 1, "a", 3))
    assert torch.equal(many[0], unit_noise(this, mask, 2, 1, "a"))
    assert not torch.equal(many[0], many[1])
    monkeypatch.setattr(augmentation, "_NUMBERS_AT_ONCE", 2 * many[0].numel())
    assert torch.equal(many, unit_noises(this, mask, 2, 1, "a", 5)), "drawn two steps at a time"
    motions = [random_motions(this, many[0], 1, "a", steps) for steps in (5, 3)]
    for longer, shorter in zip(*motions, strict=False):
        assert all(map(torch.equal, longer, shorter))
    assert not torch.equal(motions[0][0].rotation_BD33, motions[0][1].rotation_BD33)


def test_augmentation_is_rigid_and_centred(batch):
    mask, x = batch["atom_mask"], batch["atom_position"].double().unsqueeze(1).expand(-1, 3, -1, -1)
    moved = augmented(x, mask, context(batch), 3, "a")
    real = mask[0]
    before, after = (torch.cdist(t[0, :, real], t[0, :, real]) for t in (x, moved))
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6)
    assert moved[0, :, real].mean(1).abs().max() < 5
    assert not torch.allclose(moved[:, 0], moved[:, 1])
    assert (moved[:, :, ~real] == 0).all()
