"""Batches as a function of the step: sizes, fields, substitutes, independence of workers."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from refsys.data.batches.construction import ATOM_STEP, ExampleSpec
from refsys.data.batches.examples import Examples
from refsys.data.batches.synthetic import synthetic_batch
from refsys.data.prepare.entries import Sources, prepare
from refsys.data.store.store import Store
from refsys.data.vocabulary import GAP
from refsys.errors import ArgumentError, CapacityError, DataError

TRUNK_INTEGERS = ("residue_type", "residue_index", "asym_id", "alignment", "deletions", "bonds")
ATOM_INTEGERS = (
    *("atom_token", "reference_element", "reference_charge", "reference_name", "atom_slot"),
    *("molecule", "center_atom", "representative_atom", "frame_atoms", "ligand_bonds"),
)


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


ENTRIES = ["1ubq", "8vkf", "3en2", "2q2k"]


@pytest.fixture(scope="module")
def examples(store):
    return Examples(store, ENTRIES, ExampleSpec(tokens=96, alignment_rows=32))


class TestBatch:
    def test_batch_has_static_sizes_and_masked_padding(self, examples):
        for step in range(12):
            batch = examples[step]
            assert batch.sizes == {
                "batch": 1,
                "token": 96,
                "cycle": 1,
                "alignment_row": 32,
                "bond": 192,
            }
            real = int(batch["token_mask"].sum())
            assert batch["token_mask"][0, :real].all()
            assert not batch["pseudo_beta_mask"][0, real:].any()

    def test_batch_is_a_function_of_the_step(self, examples, store):
        again = Examples(store, ENTRIES, examples.spec)
        for step in (7, 0, 3):
            assert same(examples[step], again[step])
        assert not all(same(examples[0], examples[step]) for step in range(1, 9))

    @pytest.mark.parametrize("workers", [1, 2, 4])
    @pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
    def test_batches_are_independent_of_worker_count(self, examples, workers):
        loader = DataLoader(
            Steps(examples), sampler=range(3, 11), batch_size=None, num_workers=workers,
            collate_fn=identity,
        )  # fmt: skip
        for step, batch in zip(range(3, 11), loader, strict=True):
            assert same(batch, examples[step])

    def test_substitute_of_example_that_does_not_fit_is_a_function_of_the_step(self, store):
        """All crops of 1ubq have more atoms than the batch holds, no crop of 8vkf has."""
        spec = ExampleSpec(
            tokens=48, alignment_rows=8, whole=True, atoms=352, crop="contiguous", sampling="epochs"
        )
        result = Examples(store, ["1ubq", "8vkf"], spec)
        reasons = {}
        for step in range(24):
            batch, (sampled,) = result[step], result.sampled(step)
            assert batch.sizes["atom"] == 352
            if sampled.substituted:
                reasons[step] = sampled.substituted
                assert sampled.name == "8vkf"
        assert 5 < len(reasons) < 20
        assert all("1ubq: " in reason for (reason,) in reasons.values())
        again = Examples(store, ["1ubq", "8vkf"], spec)
        for step in sorted(reasons, reverse=True):
            assert again.sampled(step)[0].substituted == reasons[step]
            assert same(again[step], result[step])
            positions = result[step]["atom_position"]
            assert same(again.relabelled(result[step], positions, step), result[step])

    def test_relabelled_reuses_the_batch_of_another_process(self, store, monkeypatch):
        spec = ExampleSpec(tokens=48, alignment_rows=8, whole=True, crop="contiguous")
        builder, reader = (Examples(store, ["1ubq", "8vkf"], spec) for _ in range(2))
        batch = builder[3]
        reader.remember(3, builder.sampled(3), batch)
        monkeypatch.setattr(reader, "_example", None)
        result = reader.relabelled(batch, batch["atom_position"], 3)
        assert same(result, builder.relabelled(batch, batch["atom_position"], 3))

    def test_batch_without_a_fitting_example_is_refused_with_the_reason(self, store):
        spec = ExampleSpec(tokens=48, alignment_rows=8, whole=True, atoms=32)
        with pytest.raises(CapacityError, match=r"1ubq: \d+ atoms in a crop of 48 tokens"):
            Examples(store, ["1ubq"], spec)[0]

    @pytest.mark.parametrize(
        ("whole", "names", "golden"),
        [(False, TRUNK_INTEGERS, "b65dd36938c259eb"), (True, ATOM_INTEGERS, "5d2855e02b852dfd")],
    )
    def test_integer_fields_have_golden_digest(self, store, whole, names, golden):
        spec = ExampleSpec(tokens=96, alignment_rows=32, whole=whole)
        examples, digest = Examples(store, ENTRIES, spec), hashlib.sha256()
        for step in range(20):
            batch = examples[step]
            for name in names:
                digest.update(batch[name].numpy().tobytes())
        assert digest.hexdigest()[:16] == golden

    def test_full_model_batch_extends_the_trunk_batch(self, store):
        sizes = {"tokens": 96, "alignment_rows": 32}
        trunk = Examples(store, ENTRIES, ExampleSpec(**sizes))
        whole = Examples(store, ENTRIES, ExampleSpec(**sizes, whole=True, templates=3))
        for step in range(6):
            small, large = trunk[step], whole[step]
            assert all(torch.equal(small[name], large[name]) for name in small)
            assert large.sizes["template"] == 3
            assert large.sizes["atom"] % ATOM_STEP == 0

    def test_atom_axis_has_configured_size(self, store):
        spec = ExampleSpec(tokens=64, alignment_rows=1, whole=True, atoms=1024)
        assert Examples(store, ["1ubq"], spec)[0].sizes["atom"] == 1024
        small = dataclasses.replace(spec, atoms=32)
        with pytest.raises(
            DataError, match=r"1ubq: \d+ atoms in a crop of 64 tokens; a batch holds"
        ):
            _ = Examples(store, ["1ubq"], small)[0]

    def test_batch_fields_equal_the_records_of_8vkf(self, store):
        """Compare residue class, MSA column and atom of each token of a crop with the records."""
        spec = ExampleSpec(tokens=128, alignment_rows=64, crop="contiguous")
        example = store.open("8vkf")
        batch = Examples(store, ["8vkf"], spec)[5]
        structure, alignment = example.structure, example.alignments[0]
        rows = {bytes(row) for row in alignment["codes"][:, :]}
        assert len(rows) > 5000
        protein = (batch["asym_id"][0] == 0).numpy()
        places = batch["residue_index"][0].numpy()[protein] - 1
        assert (batch["alignment"][0, 0, 0].numpy()[protein] == alignment["codes"][0, places]).all()
        sampled = batch["alignment"][0, 0, 1:].numpy()[:, protein]
        available = {bytes(row) for row in np.ascontiguousarray(alignment["codes"][1:, places])}
        assert all(bytes(np.ascontiguousarray(row)) in available for row in sampled)
        assert np.allclose(batch["profile"][0].numpy()[protein], alignment["profile"][places])
        atoms = ~protein & batch["token_mask"][0].numpy()
        assert (batch["alignment"][0, 0, 1:].numpy()[:, atoms] == GAP).all()
        for token in range(0, 128, 17):
            whole = int(batch["token_index"][0, token])
            atom = structure["token_representative"][whole]
            is_resolved = bool(batch["pseudo_beta_mask"][0, token])
            assert is_resolved == (atom >= 0 and structure["atom_resolved"][atom])
            if is_resolved:
                expected = structure["atom_position"][atom]
                assert (batch["pseudo_beta"][0, token].numpy() == expected).all()

    def test_token_bonds_of_heme_have_bond_lengths(self, store):
        """Heme has 43 heavy atoms; every bond joins tokens within bonding distance."""
        spec = ExampleSpec(tokens=468, alignment_rows=1, crop="spatial")
        batch = Examples(store, ["8vkf"], spec)[0]
        bonds = batch["bonds"][0][(batch["bonds"][0] >= 0).all(1)].long()
        assert len(bonds) >= 50 + 13
        assert (batch["element"][0][bonds] > 0).any(1).all()
        ends = batch["pseudo_beta"][0][bonds]
        assert ((ends[:, 0] - ends[:, 1]).norm(dim=-1) < 2.6).all()

    def test_indices_of_a_batch_have_different_crops(self, store):
        spec = ExampleSpec(tokens=64, alignment_rows=8, batch=3)
        batch = Examples(store, ["8vkf"], spec)[1]
        assert batch["example"].tolist() == [0, 1, 2]
        assert not torch.equal(batch["token_index"][0], batch["token_index"][1])

    def test_crop_with_too_many_bonds_is_refused(self, store, monkeypatch):
        monkeypatch.setattr("refsys.data.batches.construction.BONDS_PER_TOKEN", 0)
        with pytest.raises(DataError, match="bonds in a crop of 468 tokens; a batch holds 0"):
            _ = Examples(store, ["8vkf"], ExampleSpec(tokens=468, alignment_rows=1))[0]

    def test_crop_with_too_many_ligand_bonds_is_refused(self, sources, tmp_path, monkeypatch):
        store = Store(tmp_path)
        prepare(store, Sources(structure=sources["19hc"].structure.cached))
        monkeypatch.setattr("refsys.data.batches.atom_features.LIGAND_BONDS", 35)
        spec = ExampleSpec(tokens=1378, alignment_rows=1, whole=True)
        with pytest.raises(
            DataError, match="19hc: 36 bonds to ligands in a crop; a batch holds 35"
        ):
            _ = Examples(store, ["19hc"], spec)[0]

    def test_examples_without_entries_are_refused(self, store):
        with pytest.raises(DataError, match="no examples to train on"):
            Examples(store, [], ExampleSpec(tokens=8, alignment_rows=1))

    @pytest.mark.parametrize(
        "wrong", [{"tokens": 0}, {"batch": 0}, {"crop": "square"}, {"atoms": 33}]
    )
    def test_invalid_spec_is_refused_by_field_name(self, wrong):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            ExampleSpec(**{"tokens": 8, "alignment_rows": 1, **wrong})


def test_synthetic_batch_fills_its_sizes_and_is_a_random_walk():
    batch = synthetic_batch(ExampleSpec(tokens=50, alignment_rows=7, batch=2), step=3)
    assert batch["token_mask"].all()
    steps = batch["pseudo_beta"].diff(dim=1).norm(dim=-1)
    assert torch.allclose(steps, torch.tensor(3.8), atol=1e-3)
    assert same(batch, synthetic_batch(ExampleSpec(tokens=50, alignment_rows=7, batch=2), step=3))
    assert torch.equal(batch["alignment"][:, 0, 0], batch["residue_type"])


class Steps(torch.utils.data.Dataset):
    def __init__(self, examples):
        self.examples = examples

    def __getitem__(self, step):
        return self.examples[step]


def identity(batch):
    return batch
