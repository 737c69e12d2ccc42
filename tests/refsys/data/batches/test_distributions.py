"""Draws are distributed as they should be, at fixed seeds: p-values above one in a thousand."""

import numpy as np
import pytest
import torch
from scipy import stats
from support.tokens import line

from refsys.data.batches.atom_features import _moved, template_arrays
from refsys.data.batches.construction import ExampleSpec, example_batch
from refsys.data.batches.crop import contiguous_crop, crop_tokens, spatial_crop
from refsys.data.batches.msa_features import alignment_arrays
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


def test_every_token_is_as_often_the_middle_of_a_crop():
    tokens = 23
    structure = line(tokens)
    middles = [
        int(spatial_crop(structure, structure["modelled_token"], 1, Draw(5, "crop", step))[0])
        for step in range(STEPS)
    ]
    assert_even(np.bincount(middles, minlength=tokens))


def test_kinds_of_crops_are_mixed_as_published():
    """Two fifths are at an interface, and a twentieth of the two fifths that are spatial."""
    structure = line(40, chains=np.repeat([0, 1], 20), near=(19, 20))
    between = 0
    for step in range(STEPS):
        draw = Draw(1, "crop", step)
        kept = crop_tokens("mixed", structure, 6, draw)
        # The six tokens nearest to token 19 or 20, of equally near ones the earlier.
        between += kept[0] in {16, 17} and kept[-1] == kept[0] + 5
    assert stats.binomtest(between, STEPS, 0.42).pvalue > LEAST_P


def test_each_chain_has_the_first_run_as_often():
    chains = np.repeat(np.arange(4), 50)
    firsts = np.arange(0, 201, 50)
    whole = [
        np.bincount(chains[contiguous_crop(firsts, 50, Draw(2, "crop", step))], minlength=4)
        for step in range(STEPS)
    ]
    assert_even(np.sum([counts == counts.max() for counts in whole], axis=0))


def test_every_alignment_row_is_drawn_as_often(store):
    example = store.open("8vkf")
    alignment = example.alignments[0]
    rows = {codes.tobytes(): row for row, codes in enumerate(np.asarray(alignment["codes"]))}
    assert len(rows) == len(alignment["codes"])
    kept = np.flatnonzero(example.structure["token_chain"] == 0)
    counts = np.zeros(len(rows))
    for step in range(200):
        found = alignment_arrays(example, kept, 512, Draw(3, "rows", step))["alignment"][0]
        numbers = [rows[codes.tobytes()] for codes in found]
        assert numbers[0] == 0
        counts[numbers[1:]] += 1
    assert counts[0] == 0
    assert_even(counts[1:])


def test_templates_are_drawn_as_published(sources, tmp_path):
    """The number is the lesser of four and one drawn from 0 to n; which ones, evenly."""
    path, store = sources["1ubq"].structure.cached, Store(tmp_path)
    prepare(store, Sources(structure=path, templates={"A": [(path, "A")] * 6}))
    example = store.open("1ubq")
    columns = example.templates[0]
    # Each template is told by its first pseudo-β.
    marked = {name: np.array(column) for name, column in columns.items()}
    marked["pseudo_beta"][:, 0, 0] = np.arange(6)
    object.__setattr__(example, "templates", {0: marked})
    numbers, taken = np.zeros(5), np.zeros(6)
    for step in range(STEPS):
        found = template_arrays(example, np.arange(10), 4, Draw(4, "templates", step))
        used = int(found["template_mask"].sum())
        numbers[used] += 1
        taken[found["template_pseudo_beta"][:used, 0, 0].astype(int)] += 1
    expected = STEPS * np.array([1, 1, 1, 1, 3]) / 7
    assert stats.chisquare(numbers, expected).pvalue > LEAST_P
    assert_even(taken)


def angles(rotations):
    """The angle of each rotation; (θ − sin θ) / π is its distribution where all are as likely."""
    trace = np.einsum("rii->r", rotations)
    return np.arccos(np.clip((trace - 1) / 2, -1, 1))


def test_rotations_of_atoms_are_uniform():
    context = Context(layout=SingleRank(4), seed=None, step=0, example=torch.zeros(1, 1).long())
    like = torch.zeros(1, 4_000, 2, 3, dtype=torch.float64)
    (motions,) = random_motions(context, like, 6, "training/augmentation", 1)
    rotations = motions.rotation_BD33[0].numpy()
    found = stats.kstest(angles(rotations), lambda a: (a - np.sin(a)) / np.pi)
    assert found.pvalue > LEAST_P
    for axis in range(3):
        # A fixed vector is turned evenly over the sphere, so each coordinate is uniform.
        assert_uniform(rotations[:, axis, 0], -1, 1)
        shift = motions.shift_BD13[0, :, 0, axis].numpy()
        assert stats.kstest(shift, "norm").pvalue > LEAST_P


def test_rotations_of_conformers_are_uniform():
    residues = np.repeat(np.arange(4_000, dtype=np.int32), 2)
    reference = np.tile(np.array([[0, 0, 0], [0, 0, 1]], np.float32), (4_000, 1))
    moved = _moved(reference, np.arange(4_000), residues, Draw(7, "conformer"))
    turned = moved[1::2] - moved[0::2]
    for axis in range(3):
        assert_uniform(turned[:, axis], -1, 1)
        assert stats.kstest(moved[0::2, axis], "norm").pvalue > LEAST_P


def test_noise_is_normal_and_unlike_between_samples_and_atoms():
    context = Context(layout=SingleRank(4), seed=None, step=3, example=torch.zeros(1, 1).long())
    noise = unit_noise(context, torch.ones(1, 500, dtype=torch.bool), 8, 9, "training/noise")
    values = noise[0].flatten(1).numpy()
    assert stats.kstest(values.ravel(), "norm").pvalue > LEAST_P
    correlation = np.corrcoef(values)
    assert np.abs(correlation[~np.eye(8, dtype=bool)]).max() < 4 / np.sqrt(values.shape[1])


@pytest.mark.parametrize("field", ["reference_position", "alignment", "token_index"])
def test_steps_differ(store, field):
    spec = ExampleSpec(tokens=64, alignment_rows=32, whole=True)
    example = store.open("8vkf")
    found = [example_batch(example, spec, step)[field] for step in range(4)]
    assert not any(torch.equal(found[0], other) for other in found[1:])
