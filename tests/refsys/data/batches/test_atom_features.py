"""Atom features of a crop: conformers under rigid motions, keyed by residue, step and index."""

import numpy as np
import pytest
import torch
from support import mmcif as part
from support.mmcif import mmcif

from refsys.batch import LIGAND
from refsys.data.batches.atom_features import crop_atoms
from refsys.data.batches.construction import ExampleSpec, crop_of, example_batch
from refsys.data.batches.examples import Examples
from refsys.data.prepare.entries import Sources, prepare
from refsys.data.store.store import Store

ENTRIES = ("1ubq", "8vkf", "2q2k", "3en2-assembly1")
SPEC = {"tokens": 96, "alignment_rows": 1, "whole": True}


def batch_of(store, entry, step=0, index=0, **changes):
    """Return the atom fields of a batch without padding, and the rows of its atoms."""
    example, spec = store.open(entry), ExampleSpec(**(SPEC | changes))
    batch = example_batch(example, spec, step, index)
    rows = crop_atoms(example, crop_of(example, spec, step, index))
    names = [field.name for field in batch.fields if field.axes[:1] == ("atom",)]
    return {name: batch[name][0, : len(rows)].numpy() for name in names}, rows


def conformers(batch):
    """Yield the residue and the atoms of each conformer."""
    for space in np.unique(batch["reference_space"]):
        yield space, np.flatnonzero((batch["reference_space"] == space) & batch["reference_mask"])


def references(store, entry, rows):
    """Return the conformers [conformer, atom, 3] of the record."""
    structure = store.open(entry).structure
    return structure["conformer_position"][:, structure["atom_conformer"][rows]].astype(np.float64)


def sampled_conformer(several, transformed):
    """Return the conformer with the distances of the moved one."""
    wrong = [np.abs(distances(one) - distances(transformed)).max() for one in several]
    return several[np.argmin(wrong)]


@pytest.mark.parametrize("entry", ENTRIES)
class TestConformers:
    def test_conformer_motions_are_rigid_without_reflection(self, store, entry):
        batch, rows = batch_of(store, entry)
        several = references(store, entry, rows)
        for _, atoms in conformers(batch):
            transformed = batch["reference_position"][atoms].astype(np.float64)
            conformer = sampled_conformer(several[:, atoms], transformed)
            assert np.allclose(distances(transformed), distances(conformer), atol=1e-4)
            if len(atoms) > 3:
                volumes = [np.linalg.det((x - x[0])[1:4]) for x in (transformed, conformer)]
                assert np.allclose(*volumes, atol=1e-3)

    def test_conformer_motions_differ_between_residues_steps_indices_and_seeds(self, store, entry):
        batch, rows = batch_of(store, entry, tokens=500)
        shift = {}
        for space, atoms in conformers(batch):
            shift[space] = batch["reference_position"][atoms].mean(axis=0)
        apart = distances(np.array(list(shift.values())))
        assert apart[~np.eye(len(apart), dtype=bool)].min() > 1e-3
        for other in ({"step": 1}, {"index": 1}, {"seed": 1}):
            again, same = batch_of(store, entry, tokens=500, **other)
            assert (same == rows).all()
            has_reference = batch["reference_mask"]
            one, two = (b["reference_position"][has_reference] for b in (batch, again))
            assert (np.linalg.norm(one - two, axis=1) > 1e-6).mean() > 0.99

    def test_conformer_motion_of_residue_is_independent_of_crop(self, store, entry):
        whole, every = batch_of(store, entry, step=7, tokens=500)
        for crop in ("contiguous", "spatial", "interface"):
            part, rows = batch_of(store, entry, step=7, crop=crop, tokens=40)
            positions = np.searchsorted(every, rows)
            for name in ("reference_position", "reference_mask", "reference_space", "atom_slot"):
                assert (part[name] == whole[name][positions]).all(), name


def test_conformer_motions_are_uniform_rotations_and_normal_shifts(store):
    """Directions are uniform on the sphere; shifts are standard normal."""
    turned, shifts = [], []
    for step in range(4):
        batch, rows = batch_of(store, "8vkf", step=step, tokens=500)
        several = references(store, "8vkf", rows)
        for _, atoms in conformers(batch):
            if len(atoms) > 3:
                transformed = batch["reference_position"][atoms]
                motion = fit(sampled_conformer(several[:, atoms], transformed), transformed)
                turned.append(motion[0][:, 0])
                shifts.append(motion[1])
    turned, shifts = np.array(turned), np.array(shifts)
    assert abs(turned.mean(axis=0)).max() < 4 / np.sqrt(3 * len(turned))
    assert turned.var(axis=0) == pytest.approx([1 / 3] * 3, abs=0.05)
    assert abs(shifts.mean(axis=0)).max() < 4 / np.sqrt(len(shifts))
    assert shifts.var(axis=0) == pytest.approx([1] * 3, abs=0.15)


def test_atom_fields_equal_the_record(store):
    batch, rows = batch_of(store, "8vkf", tokens=500)
    structure = store.open("8vkf").structure
    letters = batch["reference_name"].astype(int) + 32
    names = ["".join(map(chr, row)).rstrip() for row in letters]
    assert names == [name.decode() for name in structure["atom_name"][rows].tolist()]
    for field, column in (
        ("reference_element", "atom_element"),
        ("reference_charge", "atom_charge"),
        ("atom_position", "atom_position"),
        ("atom_resolved", "atom_resolved"),
    ):
        assert (batch[field] == structure[column][rows]).all(), field


def test_frames_with_a_corner_outside_the_crop_are_absent(store):
    """Crops have some of heme's atoms, which are tokens; their frames are complete or absent."""
    example = store.open("8vkf")
    structure, lost = example.structure, 0
    for step in range(12):
        spec = ExampleSpec(**SPEC, crop="contiguous")
        tokens = crop_of(example, spec, step, 0)
        batch = example_batch(example, spec, step)
        rows = crop_atoms(example, tokens)
        frames = batch["frame_atoms"][0].numpy()[: len(tokens)]
        expected = structure["token_frame"][tokens]
        inside = np.isin(expected, rows).all(axis=1)
        assert ((frames >= 0).all(axis=1) == inside).all()
        assert (rows[frames[inside]] == expected[inside]).all()
        lost += int(((expected >= 0).all(axis=1) & ~inside).sum())
    assert lost


def test_crop_without_atoms_gives_a_fully_masked_batch(tmp_path):
    """The last position of the chain is an undefined component without atoms."""
    path, store = tmp_path / "x.cif", Store(tmp_path / "store")
    path.write_text(mmcif(sequence=part.SEQUENCE.replace("1 4 ALA", "1 4 XX9Z")), encoding="utf-8")
    prepare(store, Sources(structure=path))
    spec = {"tokens": 1, "alignment_rows": 1, "crop": "contiguous", "whole": True}
    examples = Examples(store, ["test"], ExampleSpec(**spec))
    empty = 0
    for step in range(40):
        batch = examples[step]
        again = examples.relabelled(batch, batch["atom_position"], step)
        assert all(torch.equal(batch[name], again[name]) for name in batch)
        if not batch["atom_mask"].any():
            empty += 1
            for name in ("center_atom", "representative_atom", "frame_atoms", "ligand_bonds"):
                assert (batch[name] == -1).all()
    assert empty


def test_ligand_bonds_equal_those_of_the_record(everything):
    example = everything.open("19hc")
    structure = example.structure
    bonds = structure["bond_atoms"]
    ligand = structure["token_molecule"][structure["atom_token"][bonds]] == LIGAND
    bonds = bonds[ligand.sum(axis=1) == 1]
    for step in range(6):
        spec = ExampleSpec(**SPEC, crop="spatial")
        rows = crop_atoms(example, crop_of(example, spec, step, 0))
        pairs = example_batch(example, spec, step)["ligand_bonds"][0].numpy()
        pairs = rows[pairs[(pairs >= 0).all(axis=1)]].tolist()
        assert pairs == bonds[np.isin(bonds, rows).all(axis=1)].tolist()


def distances(points):
    return np.linalg.norm(points[:, None].astype(np.float64) - points, axis=-1)


def fit(reference, transformed):
    """Return rotation and shift with moved = rotation @ reference + shift (Kabsch)."""
    centers = reference.mean(axis=0), transformed.mean(axis=0)
    u, _, v = np.linalg.svd((reference - centers[0]).T @ (transformed - centers[1]))
    flip = np.diag([1, 1, np.sign(np.linalg.det(u @ v))])
    rotation = v.T @ flip @ u.T
    return rotation, centers[1] - rotation @ centers[0]
