"""Crops and batches: budgets, distributions, independence of how they are made."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from refsys.data.crop import contiguous_crop, crop_tokens, spatial_crop
from refsys.data.examples import Examples, ExampleSpec
from refsys.data.synthetic import synthetic_batch
from refsys.data.vocabulary import GAP
from refsys.errors import ArgumentError, DataError
from refsys.streams import Draw

INTEGERS = ("residue_type", "residue_index", "asym_id", "alignment", "deletions", "bonds")


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


chain_lengths = st.lists(st.integers(1, 30), min_size=1, max_size=6)


class TestCrop:
    @given(chain_lengths, st.integers(1, 100), st.integers(0, 10**6))
    def test_contiguous_is_one_run_a_chain_and_meets_the_budget(self, lengths, budget, step):
        chains = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        budget = min(budget, len(chains))
        kept = contiguous_crop(chains, budget, Draw(1, "crop", step))
        assert len(kept) == budget
        assert (np.diff(kept) > 0).all()
        for chain in np.unique(chains[kept]):
            places = kept[chains[kept] == chain]
            assert (np.diff(places) == 1).all()

    @given(st.integers(2, 60), st.integers(1, 60), st.integers(0, 10**6))
    def test_spatial_is_a_ball_of_modelled_tokens(self, count, budget, step):
        random = np.random.default_rng(count)
        centers = random.normal(size=(count, 3)).astype(np.float32)
        modelled = random.random(count) > 0.3
        modelled[0] = True
        kept = spatial_crop(centers, modelled, budget, Draw(1, "crop", step))
        assert len(kept) == min(budget, modelled.sum())
        assert modelled[kept].all()
        middle = Draw(1, "crop/middle", step).below(modelled.sum())
        distance = np.square(centers - centers[np.flatnonzero(modelled)[middle]]).sum(1)
        left = np.setdiff1d(np.flatnonzero(modelled), kept)
        assert not left.size or distance[kept].max() <= distance[left].min()

    def test_what_fits_is_kept_whole(self):
        chains = np.zeros(5, np.int32)
        nothing = np.zeros((5, 3), np.float32)
        for kind in ("contiguous", "spatial", "mixed"):
            kept = crop_tokens(kind, chains, nothing, np.ones(5, bool), 8, Draw(1, "crop"))
            assert kept.tolist() == [0, 1, 2, 3, 4]

    def test_every_start_is_equally_likely(self):
        chains = np.zeros(10, np.int32)
        starts = [contiguous_crop(chains, 6, Draw(1, "crop", k))[0] for k in range(5000)]
        counts = np.bincount(starts, minlength=5)
        assert ((counts - 1000) ** 2 / 1000).sum() < 23.5

    def test_mixed_draws_a_third_contiguous(self):
        chains, centers = np.zeros(40, np.int32), np.random.default_rng(0).normal(size=(40, 3))
        runs = 0
        for step in range(900):
            kept = crop_tokens(
                "mixed",
                chains,
                centers.astype(np.float32),
                np.ones(40, bool),
                20,
                Draw(1, "c", step),
            )
            runs += bool((np.diff(kept) == 1).all())
        assert 250 < runs < 350


ENTRIES = ["1ubq", "8vkf", "3en2", "2q2k"]


@pytest.fixture(scope="module")
def examples(store):
    return Examples(store, ENTRIES, ExampleSpec(tokens=96, alignment_rows=32))


class TestBatch:
    def test_sizes_are_static_and_the_rest_is_masked(self, examples):
        for step in range(12):
            batch = examples[step]
            assert batch.sizes == {"batch": 1, "token": 96, "alignment_row": 32, "bond": 192}
            real = int(batch["token_mask"].sum())
            assert batch["token_mask"][0, :real].all()
            assert not batch["pseudo_beta_mask"][0, real:].any()

    def test_a_batch_is_a_function_of_the_step(self, examples, store):
        again = Examples(store, ENTRIES, examples.spec)
        for step in (7, 0, 3):
            assert same(examples[step], again[step])
        assert not all(same(examples[0], examples[step]) for step in range(1, 9))

    @pytest.mark.parametrize("workers", [1, 4])
    @pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
    def test_workers_change_nothing(self, examples, workers):
        loader = DataLoader(
            Steps(examples), sampler=range(3, 11), batch_size=None, num_workers=workers,
            collate_fn=identity,
        )  # fmt: skip
        for step, batch in zip(range(3, 11), loader, strict=True):
            assert same(batch, examples[step])

    def test_integer_fields_are_golden(self, examples):
        digest = hashlib.sha256()
        for step in range(20):
            batch = examples[step]
            for name in INTEGERS:
                digest.update(batch[name].numpy().tobytes())
        assert digest.hexdigest()[:16] == "3ccc903ae082885d"

    def test_columns_come_from_the_right_places(self, store):
        """Of 8vkf: each kept token's class, alignment column and atom, read off the records."""
        spec = ExampleSpec(tokens=128, alignment_rows=64, crop="contiguous")
        example = store.open("8vkf")
        batch = Examples(store, ["8vkf"], spec)[5]
        structure, alignment = example.structure, example.alignments[0]
        rows = {bytes(row) for row in alignment["codes"][:, :]}
        assert len(rows) > 5000
        protein = (batch["asym_id"][0] == 0).numpy()
        places = batch["residue_index"][0].numpy()[protein] - 1
        assert (batch["alignment"][0, 0].numpy()[protein] == alignment["codes"][0, places]).all()
        drawn = batch["alignment"][0, 1:].numpy()[:, protein]
        known = {bytes(row) for row in np.ascontiguousarray(alignment["codes"][1:, places])}
        assert all(bytes(np.ascontiguousarray(row)) in known for row in drawn)
        assert np.allclose(batch["profile"][0].numpy()[protein], alignment["profile"][places])
        atoms = ~protein & batch["token_mask"][0].numpy()
        assert (batch["alignment"][0, 1:].numpy()[:, atoms] == GAP).all()
        for token in range(0, 128, 17):
            whole = int(batch["token_index"][0, token])
            atom = structure["token_representative"][whole]
            assert bool(batch["pseudo_beta_mask"][0, token]) == (atom >= 0)
            if atom >= 0:
                expected = structure["atom_position"][atom]
                assert (batch["pseudo_beta"][0, token].numpy() == expected).all()

    def test_bonds_are_those_of_the_ligand(self, store):
        """Heme: 43 heavy atoms; every bond joins tokens whose atoms are within bonding distance."""
        spec = ExampleSpec(tokens=468, alignment_rows=1, crop="spatial")
        batch = Examples(store, ["8vkf"], spec)[0]
        bonds = batch["bonds"][0][(batch["bonds"][0] >= 0).all(1)].long()
        assert len(bonds) >= 50 + 13
        assert (batch["element"][0][bonds] > 0).any(1).all()
        ends = batch["pseudo_beta"][0][bonds]
        assert ((ends[:, 0] - ends[:, 1]).norm(dim=-1) < 2.6).all()

    def test_places_of_a_batch_are_drawn_apart(self, store):
        spec = ExampleSpec(tokens=64, alignment_rows=8, batch=3)
        batch = Examples(store, ["8vkf"], spec)[1]
        assert batch["example"].tolist() == [0, 1, 2]
        assert not torch.equal(batch["token_index"][0], batch["token_index"][1])

    def test_too_many_bonds_are_an_error(self, store, monkeypatch):
        monkeypatch.setattr("refsys.data.examples.BONDS_PER_TOKEN", 0)
        with pytest.raises(DataError, match="bonds in a crop of 468 tokens; a batch holds 0"):
            _ = Examples(store, ["8vkf"], ExampleSpec(tokens=468, alignment_rows=1))[0]

    def test_no_examples_is_an_error(self, store):
        with pytest.raises(DataError, match="no examples to train on"):
            Examples(store, [], ExampleSpec(tokens=8, alignment_rows=1))

    @pytest.mark.parametrize("wrong", [{"tokens": 0}, {"batch": 0}, {"crop": "square"}])
    def test_a_wrong_spec_is_named(self, wrong):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            ExampleSpec(**{"tokens": 8, "alignment_rows": 1, **wrong})


def test_synthetic_batches_fill_their_sizes_and_walk():
    batch = synthetic_batch(ExampleSpec(tokens=50, alignment_rows=7, batch=2), step=3)
    assert batch["token_mask"].all()
    steps = batch["pseudo_beta"].diff(dim=1).norm(dim=-1)
    assert torch.allclose(steps, torch.tensor(3.8), atol=1e-3)
    assert same(batch, synthetic_batch(ExampleSpec(tokens=50, alignment_rows=7, batch=2), step=3))
    assert torch.equal(batch["alignment"][:, 0], batch["residue_type"])


class Steps(torch.utils.data.Dataset):
    def __init__(self, examples):
        self.examples = examples

    def __getitem__(self, step):
        return self.examples[step]


def identity(batch):
    return batch
