"""Diffusion and confidence losses: naive NumPy references, invariance, perfect predictions."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from support.atoms import with_atoms, with_labels
from support.trunks import FLOAT64, random_batch, whole
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from refsys.batch import DNA, LIGAND, RNA, Batch
from refsys.geometry import quaternion_to_rotation
from refsys.losses.confidence import confidence_loss, confidence_losses, lddt_of_atoms
from refsys.losses.diffusion import DiffusionLossConfig, diffusion_loss, local_score
from refsys.model.confidence import ConfidenceOutput

TOKENS, SAMPLES = 12, 3
G = torch.Generator().manual_seed(8)
CONFIG = DiffusionLossConfig(bond=1.0, block=7)
FLOOR = 1 - np.mean([1 / (1 + math.exp(-t)) for t in (0.5, 1, 2, 4)])


def normal(*shape):
    return torch.randn(shape, generator=G, dtype=torch.float64)


@pytest.fixture(scope="module")
def batch():
    return with_labels(with_atoms(random_batch(TOKENS, 2, batch=2)))


@pytest.fixture(scope="module")
def prediction(batch):
    truth = batch["atom_position"].double().unsqueeze(1)
    return truth + 1.5 * normal(2, SAMPLES, batch.sizes["atom"], 3), normal(2, SAMPLES).exp() * 4


def turned(x, seed=0):
    g = torch.Generator().manual_seed(seed)
    turn = quaternion_to_rotation(torch.randn(4, generator=g, dtype=torch.float64))
    return x @ turn.T + 30.0 * torch.randn(3, generator=g, dtype=torch.float64)


def column(batch, name, example):
    return batch[name][example].numpy()


def naive_diffusion(x, sigma, batch):
    """Compute the diffusion losses in loops over examples, samples and pairs."""
    parts = {"mse": [], "bond": [], "smooth_lddt": []}
    for b in range(x.shape[0]):
        truth = column(batch, "atom_position", b).astype(float)
        resolved = column(batch, "atom_resolved", b)
        kinds = column(batch, "molecule", b)[column(batch, "atom_token", b)]
        nucleotide = np.isin(kinds, (DNA, RNA))
        weight = (1 + 5.0 * nucleotide + 10.0 * (kinds == LIGAND)) * resolved
        for d in range(x.shape[1]):
            ours, level = x[b, d].numpy(), float(sigma[b, d])
            factor = (level**2 + 16**2) / (level * 16) ** 2
            mean = lambda p: (weight[:, None] * p).sum(0) / weight.sum()  # noqa: B023, E731
            turn, _ = Rotation.align_vectors(ours - mean(ours), truth - mean(truth), weight)
            target = turn.apply(truth - mean(truth)) + mean(ours)
            square = ((ours - target) ** 2).sum(-1)
            parts["mse"].append(factor * (weight * square).sum() / resolved.sum() / 3)
            errors = [
                (np.linalg.norm(ours[i] - ours[j]) - np.linalg.norm(truth[i] - truth[j])) ** 2
                for i, j in column(batch, "ligand_bonds", b)
                if i >= 0 and resolved[i] and resolved[j]
            ]
            parts["bond"].append(factor * np.mean(errors) if errors else 0.0)
            scores = []
            for i in np.flatnonzero(resolved):
                for j in np.flatnonzero(resolved):
                    reach = np.linalg.norm(truth[i] - truth[j])
                    if i != j and reach < (30 if nucleotide[i] else 15):
                        error = abs(np.linalg.norm(ours[i] - ours[j]) - reach)
                        scores += [1 / (1 + math.exp(error - t)) for t in (0.5, 1, 2, 4)]
            parts["smooth_lddt"].append(1 - np.mean(scores))
    return {name: float(np.mean(values)) for name, values in parts.items()}


def test_diffusion_losses_equal_a_naive_implementation(batch, prediction):
    found = diffusion_loss(*prediction, batch, CONFIG, whole(batch), FLOAT64)
    expected = naive_diffusion(*prediction, batch)
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-6), name
    assert float(found["diffusion"]) == pytest.approx(sum(expected.values()), rel=1e-6)


def test_diffusion_losses_are_invariant_to_rigid_motion(batch, prediction):
    x, sigma = prediction
    plain = diffusion_loss(x, sigma, batch, CONFIG, whole(batch), FLOAT64)
    moved = diffusion_loss(turned(x), sigma, batch, CONFIG, whole(batch), FLOAT64)
    for name in plain:
        torch.testing.assert_close(moved[name], plain[name], rtol=1e-6, atol=1e-9)


def test_mse_penalizes_a_mirror_image(batch, prediction):
    """Distances are equal in a mirror image, so only the aligned error differs."""
    truth = batch["atom_position"].double().unsqueeze(1)
    mirrored = truth * torch.tensor([1.0, 1.0, -1.0])
    found = diffusion_loss(mirrored, prediction[1][:, :1], batch, CONFIG, whole(batch), FLOAT64)
    assert found["mse"] > 0.1
    assert float(found["smooth_lddt"]) == pytest.approx(FLOOR, abs=1e-6)


def test_diffusion_losses_are_minimal_for_a_perfect_prediction(batch, prediction):
    truth = turned(batch["atom_position"].double()).unsqueeze(1)
    found = diffusion_loss(truth, prediction[1][:, :1], batch, CONFIG, whole(batch), FLOAT64)
    assert float(found["mse"]) == pytest.approx(0, abs=1e-9)
    assert float(found["bond"]) == pytest.approx(0, abs=1e-9)
    assert float(found["smooth_lddt"]) == pytest.approx(FLOOR, abs=1e-6)


def test_smooth_lddt_and_its_gradient_are_independent_of_the_block_size(batch, prediction):
    x = prediction[0].clone().requires_grad_()
    results = []
    for block in (5, 64, 10_000):
        score = local_score(x, batch, block, whole(batch))
        (gradient,) = torch.autograd.grad(score.sum(), x)
        results.append((score.detach(), gradient))
    for score, gradient in results[1:]:
        torch.testing.assert_close(score, results[0][0])
        torch.testing.assert_close(gradient, results[0][1])
    assert results[0][1].abs().max() > 0


def test_diffusion_losses_materialize_no_tensor_of_samples_by_atom_pairs(batch, prediction):
    x, sigma = prediction
    limit = x.shape[1] * batch.sizes["atom"] ** 2
    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor))
            return out

    with Sizes():
        leaf = x.clone().requires_grad_()
        config = DiffusionLossConfig(bond=1.0, block=16)
        diffusion_loss(leaf, sigma, batch, config, whole(batch), FLOAT64)["diffusion"].backward()
    assert max(sizes) < limit / 2


def test_diffusion_losses_ignore_unresolved_atoms_and_padding(batch, prediction):
    x, sigma = prediction
    garbage = torch.where(batch["atom_resolved"][:, None, :, None], x, 100 * normal(*x.shape))
    plain = diffusion_loss(x, sigma, batch, CONFIG, whole(batch), FLOAT64)
    for other, wide in (
        (batch, garbage),
        (batch.padded(atom=batch.sizes["atom"] + 32), torch.nn.functional.pad(x, (0, 0, 0, 32))),
    ):
        found = diffusion_loss(wide, sigma, other, CONFIG, whole(other), FLOAT64)
        for name in plain:
            torch.testing.assert_close(found[name], plain[name], rtol=1e-6, atol=1e-9)


def test_diffusion_losses_are_zero_without_resolved_atoms(batch, prediction):
    nothing = Batch(
        {**batch, "atom_resolved": torch.zeros_like(batch["atom_resolved"])}, batch.fields
    )
    x = prediction[0].clone().requires_grad_()
    found = diffusion_loss(x, prediction[1], nothing, CONFIG, whole(nothing), FLOAT64)
    assert found["mse"].item() == found["bond"].item() == 0
    found["diffusion"].backward()
    assert x.grad.isfinite().all()


def logits(batch):
    n = batch.sizes["token"]
    return ConfidenceOutput(
        normal(2, n, 24, 50), normal(2, n, n, 64), normal(2, n, n, 64), normal(2, n, 24, 2)
    )


def naive_confidence(output, x, batch):
    """Compute means over examples of each example's mean, entry by entry."""
    names = ("plddt", "pae", "pde", "resolved")
    examples = {name: [[] for _ in range(x.shape[0])] for name in names}

    def add(name, row, target):
        row = row.numpy()
        error = float(np.log(np.exp(row - row.max()).sum()) + row.max() - row[target])
        examples[name][b].append(error)

    for b in range(x.shape[0]):
        ours, truth = x[b].numpy(), column(batch, "atom_position", b).astype(float)
        resolved, token = column(batch, "atom_resolved", b), column(batch, "atom_token", b)
        kinds, slot = column(batch, "molecule", b), column(batch, "atom_slot", b)
        representatives = list(column(batch, "representative_atom", b))
        centers, atomic = column(batch, "center_atom", b), column(batch, "element", b) > 0
        for a in np.flatnonzero(column(batch, "atom_mask", b)):
            add("resolved", output.resolved_BRM2[b, token[a], slot[a]], int(resolved[a]))
            scores = []
            for n, other in enumerate(centers):
                reach = np.linalg.norm(truth[a] - truth[other])
                near = reach < (30 if kinds[n] in (DNA, RNA) else 15)
                standard = kinds[n] != LIGAND and not atomic[n]
                if near and resolved[other] and standard and other != a:
                    error = abs(np.linalg.norm(ours[a] - ours[other]) - reach)
                    scores.append(np.mean([error < t for t in (0.5, 1, 2, 4)]))
            if resolved[a] and scores:
                add(
                    "plddt",
                    output.plddt_BRMK[b, token[a], slot[a]],
                    min(int(np.mean(scores) * 50), 49),
                )
        for i, corners in enumerate(column(batch, "frame_atoms", b)):
            for j, other in enumerate(representatives):
                first_atom = representatives[i]
                if resolved[other] and resolved[first_atom]:
                    error = abs(
                        np.linalg.norm(ours[first_atom] - ours[other])
                        - np.linalg.norm(truth[first_atom] - truth[other])
                    )
                    add("pde", output.pde_BRNK[b, i, j], min(int(error * 2), 63))
                if corners[0] < 0 or not resolved[corners].all() or not resolved[other]:
                    continue
                axes, offsets = [], []
                for position in (ours, truth):
                    first, origin, third = position[corners]
                    w1 = (first - origin) / np.linalg.norm(first - origin)
                    w2 = (third - origin) / np.linalg.norm(third - origin)
                    cosine = abs(w1 @ w2)
                    e1, e2 = w1 + w2, w2 - w1
                    e1, e2 = e1 / np.linalg.norm(e1), e2 / np.linalg.norm(e2)
                    axes.append(np.stack([e1, e2, np.cross(e1, e2)]))
                    offsets.append(position[other] - origin)
                # The last cosine is that of the label.
                if cosine > math.cos(math.radians(25)):
                    continue
                error = np.linalg.norm(axes[0] @ offsets[0] - axes[1] @ offsets[1])
                add("pae", output.pae_BRNK[b, i, j], min(int(error * 2), 63))
    return {
        name: np.mean([np.mean(errors) if errors else 0.0 for errors in lists])
        for name, lists in examples.items()
    }


def test_confidence_losses_equal_a_naive_implementation(batch, prediction):
    output, x = logits(batch), prediction[0][:, 0]
    found = confidence_losses(output, x, batch, whole(batch), FLOAT64)
    expected = naive_confidence(output, x, batch)
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-6), name
    assert float(confidence_loss(found, pae=1.0)) == pytest.approx(sum(expected.values()))


def test_confidence_losses_are_invariant_to_rigid_motion_of_the_rollout(batch, prediction):
    output, x = logits(batch), prediction[0][:, 0]
    plain, moved = (
        confidence_losses(output, p, batch, whole(batch), FLOAT64) for p in (x, turned(x))
    )
    for name in plain:
        torch.testing.assert_close(moved[name], plain[name], rtol=1e-9, atol=1e-9)


def only(batch, example):
    return Batch({name: t[example : example + 1] for name, t in batch.items()}, batch.fields)


def test_confidence_losses_are_means_over_per_example_losses(batch, prediction):
    """Examples with few and many atoms have equal weight, so ranks may hold any of them."""
    output, x = logits(batch), prediction[0][:, 0]
    resolved = batch["atom_resolved"].clone()
    resolved[1, 5:] = False
    uneven = Batch({**batch, "atom_resolved": resolved}, batch.fields)
    together = confidence_losses(output, x, uneven, whole(uneven), FLOAT64)
    apart = [
        confidence_losses(
            ConfidenceOutput(*(t[b : b + 1] for t in output)),
            x[b : b + 1],
            only(uneven, b),
            whole(uneven),
            FLOAT64,
        )
        for b in range(2)
    ]
    for name, value in together.items():
        expected = (apart[0][name] + apart[1][name]) / 2
        assert apart[0][name] != apart[1][name]
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)


def test_confidence_losses_count_examples_of_unusable_resolution_as_zero(batch, prediction):
    output, x = logits(batch), prediction[0][:, 0]
    half = Batch({**batch, "resolution": torch.tensor([2.0, 9.0])}, batch.fields)
    together = confidence_losses(output, x, half, whole(half), FLOAT64)
    first = ConfidenceOutput(*(t[:1] for t in output))
    alone = confidence_losses(first, x[:1], only(batch, 0), whole(batch), FLOAT64)
    for name, value in together.items():
        torch.testing.assert_close(value, alone[name] / 2, rtol=1e-12, atol=0)


def test_lddt_scores_modified_residues_but_does_not_use_them_as_reference(batch, prediction):
    x, truth = prediction[0][:, 0], batch["atom_position"].double()
    polymer = Batch({**batch, "molecule": torch.zeros_like(batch["molecule"])}, batch.fields)
    plain, _ = lddt_of_atoms(x, truth, polymer, whole(polymer))
    element = polymer["element"].clone()
    element[:, 4] = 6
    modified = Batch({**polymer, "element": element}, batch.fields)
    moved = x.clone()
    moved.scatter_(1, batch["center_atom"][:, 4:5, None].long().expand(-1, 1, 3), 99.0)
    found, scored = lddt_of_atoms(x, truth, modified, whole(modified))
    again, _ = lddt_of_atoms(moved, truth, modified, whole(modified))
    own = torch.arange(x.shape[1]) == batch["center_atom"][:, 4:5]
    assert not torch.equal(found, plain)
    assert torch.equal(found[~own], again[~own])
    assert scored[own].any()


@pytest.mark.parametrize("resolution", [0.0, 4.5])
def test_confidence_losses_are_zero_for_unusable_resolutions(batch, prediction, resolution):
    other = Batch({**batch, "resolution": torch.full((2,), resolution)}, batch.fields)
    found = confidence_losses(logits(batch), prediction[0][:, 0], other, whole(other), FLOAT64)
    assert {float(value) for value in found.values()} == {0.0}
