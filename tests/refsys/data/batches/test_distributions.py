"""Random choices have their expected distributions, at fixed seeds: p-values above 0.001."""

import numpy as np
import pytest
import torch
from scipy import stats
from support.tokens import line

from refsys.data.batches.atom_features import _transformed, template_arrays
from refsys.data.batches.construction import ExampleSpec, example_batch
from refsys.data.batches.crop import contiguous_crop, crop_tokens, spatial_crop
from refsys.data.batches.msa_features import msa_arrays
from refsys.data.prepare.entries import Sources, prepare
from refsys.data.store.store import Store
from refsys.model.augmentation import random_motions, unit_noise
from refsys.model.context import Context
from refsys.parallel.layout import SingleRank
from refsys.streams import Draw

LEAST_P = 1e-3
STEPS = 3_000


def assert_even(counts):
    assert stats.chisquare(counts).pvalue > LEAST_P


def assert_uniform(values, low, high):
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > LEAST_P


def test_spatial_crop_centres_are_uniform():
    tokens = 23
    structure = line(tokens)
    middles = [
        int(spatial_crop(structure, structure["modelled_token"], 1, Draw(5, "crop", step))[0])
        for step in range(STEPS)
    ]
    assert_even(np.bincount(middles, minlength=tokens))


def test_mixed_crops_have_published_proportions():
    """Interface crops are two fifths; a twentieth of the spatial two fifths is at the interface."""
    structure = line(40, chains=np.repeat([0, 1], 20), near=(19, 20))
    between = 0
    for step in range(STEPS):
        draw = Draw(1, "crop", step)
        tokens = crop_tokens("mixed", structure, 6, draw)
        # The six tokens nearest to token 19 or 20; ties go to the lower token.
        between += tokens[0] in {16, 17} and tokens[-1] == tokens[0] + 5
    assert stats.binomtest(between, STEPS, 0.42).pvalue > LEAST_P


def test_first_chain_of_contiguous_crop_is_uniform():
    chains = np.repeat(np.arange(4), 50)
    firsts = np.arange(0, 201, 50)
    whole = [
        np.bincount(chains[contiguous_crop(firsts, 50, Draw(2, "crop", step))], minlength=4)
        for step in range(STEPS)
    ]
    assert_even(np.sum([counts == counts.max() for counts in whole], axis=0))


def test_sampled_msa_rows_are_uniform(store):
    example = store.open("8vkf")
    alignment = example.alignments[0]
    rows = {codes.tobytes(): row for row, codes in enumerate(np.asarray(alignment["codes"]))}
    assert len(rows) == len(alignment["codes"])
    tokens = np.flatnonzero(example.structure["token_chain"] == 0)
    counts = np.zeros(len(rows))
    for step in range(200):
        result = msa_arrays(example, tokens, 512, Draw(3, "rows", step))["alignment"][0]
        numbers = [rows[codes.tobytes()] for codes in result]
        assert numbers[0] == 0
        counts[numbers[1:]] += 1
    assert counts[0] == 0
    assert_even(counts[1:])


def test_sampled_templates_have_published_distribution(sources, tmp_path):
    """The count is the lesser of four and a uniform number from 0 to n; the choice is uniform."""
    path, store = sources["1ubq"].structure.cached, Store(tmp_path)
    prepare(store, Sources(structure=path, templates={"A": [(path, "A")] * 6}))
    example = store.open("1ubq")
    columns = example.templates[0]
    # The first pseudo-β identifies the template.
    marked = {name: np.array(column) for name, column in columns.items()}
    marked["pseudo_beta"][:, 0, 0] = np.arange(6)
    object.__setattr__(example, "templates", {0: marked})
    numbers, choices = np.zeros(5), np.zeros(6)
    for step in range(STEPS):
        result = template_arrays(example, np.arange(10), 4, Draw(4, "templates", step))
        used = int(result["template_mask"].sum())
        numbers[used] += 1
        choices[result["template_pseudo_beta"][:used, 0, 0].astype(int)] += 1
    expected = STEPS * np.array([1, 1, 1, 1, 3]) / 7
    assert stats.chisquare(numbers, expected).pvalue > LEAST_P
    assert_even(choices)


def angles(rotations):
    """Return the angle θ of each rotation; its distribution is (θ − sin θ) / π if uniform."""
    trace = np.einsum("rii->r", rotations)
    return np.arccos(np.clip((trace - 1) / 2, -1, 1))


def test_augmentation_rotations_are_uniform():
    context = Context(layout=SingleRank(4), seed=None, step=0, example=torch.zeros(1, 1).long())
    like = torch.zeros(1, 4_000, 2, 3, dtype=torch.float64)
    (motions,) = random_motions(context, like, 6, "training/augmentation", 1)
    rotations = motions.rotation_BD33[0].numpy()
    result = stats.kstest(angles(rotations), lambda a: (a - np.sin(a)) / np.pi)
    assert result.pvalue > LEAST_P
    for axis in range(3):
        # A rotated fixed vector is uniform on the sphere, so each coordinate is uniform.
        assert_uniform(rotations[:, axis, 0], -1, 1)
        shift = motions.shift_BD13[0, :, 0, axis].numpy()
        assert stats.kstest(shift, "norm").pvalue > LEAST_P


def test_conformer_rotations_are_uniform():
    residues = np.repeat(np.arange(4_000, dtype=np.int32), 2)
    reference = np.tile(np.array([[0, 0, 0], [0, 0, 1]], np.float32), (4_000, 1))
    transformed = _transformed(reference, np.arange(4_000), residues, Draw(7, "conformer"))
    turned = transformed[1::2] - transformed[0::2]
    for axis in range(3):
        assert_uniform(turned[:, axis], -1, 1)
        assert stats.kstest(transformed[0::2, axis], "norm").pvalue > LEAST_P


def test_noise_is_normal_and_uncorrelated_between_samples():
    context = Context(layout=SingleRank(4), seed=None, step=3, example=torch.zeros(1, 1).long())
    noise = unit_noise(context, torch.ones(1, 500, dtype=torch.bool), 8, 9, "training/noise")
    values = noise[0].flatten(1).numpy()
    assert stats.kstest(values.ravel(), "norm").pvalue > LEAST_P
    correlation = np.corrcoef(values)
    assert np.abs(correlation[~np.eye(8, dtype=bool)]).max() < 4 / np.sqrt(values.shape[1])


@pytest.mark.parametrize("field", ["reference_position", "alignment", "token_index"])
def test_fields_differ_between_steps(store, field):
    spec = ExampleSpec(tokens=64, alignment_rows=32, whole=True)
    example = store.open("8vkf")
    result = [example_batch(example, spec, step)[field] for step in range(4)]
    assert not any(torch.equal(result[0], other) for other in result[1:])
