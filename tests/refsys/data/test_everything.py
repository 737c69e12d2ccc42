"""Every structure of the set: it is prepared, and makes sound batches of every kind of crop."""

from collections import Counter

import numpy as np
import pytest

from refsys.batch import DNA, LIGAND, PROTEIN, RNA
from refsys.data.batches.construction import ATOM_STEP, ExampleSpec, example_batch
from refsys.data.batches.labels import symmetries_of
from refsys.data.prepare.fetch import PACKAGES, packages
from refsys.data.vocabulary import GAP

SPEC = {"tokens": 384, "alignment_rows": 16, "whole": True, "templates": 2}
# Guanosine at the start of a chain has the most atoms of all tokens.
MOST_ATOMS = 24
KINDS = ("contiguous", "spatial", "interface")
ENTRIES = [
    entry
    for package in packages(PACKAGES)
    for source in package.sources
    for entry in (source.entry, *(f"{source.entry}-assembly{name}" for name in source.assemblies))
]


def arrays(batch):
    return {name: tensor[0].numpy() for name, tensor in batch.items()}


def test_it_is_all_there(everything):
    assert everything.entries() == sorted(ENTRIES)
    assert len(set(ENTRIES)) == len(ENTRIES) == 88 + 3
    every = [everything.open(entry).structure for entry in everything.entries()]
    tokens = sum(len(structure["token_residue_type"]) for structure in every)
    # As deposited, each of the 12 selenomethionines is a token for each of its eight atoms.
    assert tokens == 138_847 + 167 + 2_954 - 12 * 7
    assert {structure.facts["dropped_atoms"] for structure in every} == {0}


@pytest.mark.parametrize("entry", ENTRIES)
def test_columns_say_the_same_thing_twice(everything, entry):
    """Tokens, residues and chains own their atoms in one order; what is far is not bonded."""
    found = everything.open(entry).structure
    atoms, tokens = len(found["atom_token"]), len(found["token_residue"])
    first, residue_first = found["token_first_atom"], found["residue_first_atom"]
    assert first[0] == residue_first[0] == 0
    assert first[-1] == residue_first[-1] == atoms
    assert (np.repeat(np.arange(tokens), np.diff(first)) == found["atom_token"]).all()
    owner = np.repeat(np.arange(len(residue_first) - 1), np.diff(residue_first))
    assert (found["token_residue"][found["atom_token"]] == owner).all()
    assert (found["residue_chain"][found["token_residue"]] == found["token_chain"]).all()
    assert (np.diff(found["token_chain"]) >= 0).all()
    named = np.stack([owner, found["atom_name"].astype("S4").view(">u4")], axis=1)
    assert len(np.unique(named, axis=0)) == atoms
    assert not found["atom_position"][~found["atom_resolved"]].any()
    unknown = found["atom_conformer"][~found["atom_reference_known"]]
    assert not found["conformer_position"][:, unknown].any()
    ends = found["bond_atoms"]
    assert (found["atom_token"][ends[:, 0]] != found["atom_token"][ends[:, 1]]).all()
    seen = ends[found["atom_resolved"][ends].all(axis=1)]
    lengths = np.linalg.norm(np.diff(found["atom_position"][seen], axis=1)[:, 0], axis=1)
    # Low resolution strains bonds; an exchanged name would make them twice as long.
    assert (lengths < 3.0).all()
    assert (lengths > 0.7).all()


@pytest.mark.parametrize("entry", ENTRIES)
def test_relabelings_keep_elements(everything, entry):
    symmetries = symmetries_of(everything.open(entry).structure)
    elements = everything.open(entry).structure["atom_element"]
    first = np.searchsorted(symmetries.residue_of_atom, np.arange(len(symmetries.residue_symmetry)))
    for number, table in enumerate(symmetries.symmetries):
        assert len(table) > 1
        assert (table[0] == np.arange(table.shape[1])).all()
        assert (np.sort(table, axis=1) == table[0]).all()
        own = first[symmetries.residue_symmetry == number]
        assert len(own)
        kinds = elements[own[0] + np.arange(table.shape[1])]
        assert (kinds[table] == kinds).all()
    groups = [np.flatnonzero(symmetries.chain_group == g) for g in set(symmetries.chain_group)]
    sizes = np.bincount(symmetries.chain_of_atom, minlength=len(symmetries.chain_group))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    for chain, *copies in groups:
        here = elements[starts[chain] : starts[chain + 1]]
        for copy in copies:
            assert (elements[starts[copy] : starts[copy + 1]] == here).all()


@pytest.mark.parametrize("entry", ENTRIES)
def test_batches_are_sound(everything, entry):
    example = everything.open(entry)
    for kind in KINDS:
        for step in range(3):
            spec = ExampleSpec(crop=kind, **SPEC)
            check(arrays(example_batch(example, spec, step)), example)


def check(b, example):
    """What must hold of any batch of the whole model."""
    check_padding(b)
    check_atoms(b, example)
    check_places(b)
    check_bonds(b)
    check_rows(b)


def check_padding(b):
    tokens, atoms = int(b["token_mask"].sum()), int(b["atom_mask"].sum())
    assert 0 < tokens <= SPEC["tokens"]
    assert b["token_mask"][:tokens].all()
    assert b["atom_mask"][:atoms].all()
    assert len(b["atom_mask"]) % ATOM_STEP == 0
    assert not b["atom_resolved"][atoms:].any()
    assert not b["reference_mask"][atoms:].any()
    assert not b["pseudo_beta_mask"][tokens:].any()
    for name in ("center_atom", "representative_atom", "frame_atoms"):
        assert (b[name][tokens:] == -1).all()


def check_atoms(b, example):
    """Tokens are there with all their atoms, one after another."""
    tokens, token = int(b["token_mask"].sum()), b["atom_token"][b["atom_mask"]]
    assert (np.diff(token) >= 0).all()
    assert token[0] >= 0
    assert token[-1] < tokens
    assert (b["atom_token"][~b["atom_mask"]] == -1).all()
    kept = b["token_index"][:tokens]
    assert (np.diff(kept) > 0).all()
    counts = np.bincount(token, minlength=tokens)
    assert (counts == np.diff(example.structure["token_first_atom"])[kept]).all()
    slots = np.arange(len(token)) - (np.cumsum(counts) - counts)[token]
    assert (b["atom_slot"][b["atom_mask"]] == slots).all()
    assert slots.max() < MOST_ATOMS
    assert np.isfinite(b["atom_position"]).all()
    assert np.isfinite(b["reference_position"]).all()
    assert not b["atom_position"][~b["atom_resolved"]].any()
    assert not b["reference_position"][~b["reference_mask"]].any()


def check_places(b):
    """Centres, representatives and frames are atoms of their own token, or of its residue."""
    tokens, token = int(b["token_mask"].sum()), b["atom_token"]
    counts = np.bincount(token[b["atom_mask"]], minlength=tokens)
    for name in ("center_atom", "representative_atom"):
        place = b[name][:tokens]
        assert ((place >= 0) == (counts > 0)).all()
        assert (token[place[place >= 0]] == np.flatnonzero(place >= 0)).all()
    frames = b["frame_atoms"][:tokens]
    there = (frames >= 0).all(axis=1)
    assert (there == (frames >= 0).any(axis=1)).all()
    assert (token[frames[there, 1]] == np.flatnonzero(there)).all()
    standard = there & (b["element"][:tokens] == 0)
    assert (token[frames[standard]] == np.flatnonzero(standard)[:, None]).all()
    space = b["reference_space"][frames[there]]
    assert (space == space[:, :1]).all()
    assert (np.diff(np.sort(frames[there], axis=1), axis=1) > 0).all()
    atom, seen = b["representative_atom"], b["pseudo_beta_mask"]
    assert (seen == ((atom >= 0) & b["atom_resolved"][atom])).all()
    assert (b["pseudo_beta"][seen] == b["atom_position"][atom[seen]]).all()
    assert not b["pseudo_beta"][~seen].any()


def check_bonds(b):
    tokens, atoms = int(b["token_mask"].sum()), int(b["atom_mask"].sum())
    assert set(b["molecule"][:tokens].tolist()) <= {PROTEIN, RNA, DNA, LIGAND}
    for name, size in (("ligand_bonds", atoms), ("bonds", tokens)):
        count = int((b[name] >= 0).all(axis=1).sum())
        assert (b[name][count:] == -1).all()
        assert (b[name][:count] < size).all()
    ends = b["ligand_bonds"][(b["ligand_bonds"] >= 0).all(axis=1)]
    assert ((b["molecule"][b["atom_token"][ends]] == LIGAND).sum(axis=1) == 1).all()
    ends = b["bonds"][(b["bonds"] >= 0).all(axis=1)]
    assert (b["element"][ends] > 0).any(axis=1).all()
    assert (ends[:, 0] < ends[:, 1]).all()


def check_rows(b):
    """Alignments and templates."""
    tokens, rows = int(b["token_mask"].sum()), int(b["alignment_row_mask"][0].sum())
    assert b["alignment_row_mask"][0][:rows].all()
    assert (b["alignment"][0, 0, :tokens] == b["residue_type"][:tokens]).all()
    assert (b["alignment"][0, rows:] == GAP).all()
    assert np.allclose(b["profile"][:tokens].sum(axis=1), 1, atol=1e-5)
    absent = ~b["template_mask"]
    assert (b["template_residue_type"][absent] == GAP).all()
    for name in ("pseudo_beta_mask", "backbone_mask", "pseudo_beta", "backbone"):
        assert not b[f"template_{name}"][absent].any()


class TestAssemblies:
    def test_hemoglobin_of_the_earthworm_is_the_largest(self, everything):
        one, all_of_it = everything.open("2gtl"), everything.open("2gtl-assembly1")
        assert all_of_it.tokens == 12 * one.tokens == 35_568

    def test_a_dimer_is_twice_its_chain(self, everything):
        one, two = everything.open("3en2"), everything.open("3en2-assembly1")
        assert two.tokens == 2 * one.tokens
        for name in ("bond_atoms", "atom_token", "residue_chain"):
            assert len(two.structure[name]) == 2 * len(one.structure[name])

    @pytest.mark.parametrize("entry", ["3en2", "2hyy", "2gtl"])
    def test_chains_are_copied_without_a_strain(self, everything, entry):
        one, whole = (everything.open(name).structure for name in (entry, f"{entry}-assembly1"))
        place_of = {chain["name"]: number for number, chain in enumerate(one.facts["chains"])}
        original = atoms_by_chain(one)
        copies = atoms_by_chain(whole)
        seen = Counter()
        for number, chain in enumerate(whole.facts["chains"]):
            name = chain["name"].split("-")[0]
            seen[name] += 1
            assert chain["name"] == (name if seen[name] == 1 else f"{name}-{seen[name]}")
            here, there = copies[number], original[place_of[name]]
            for column in ("atom_name", "atom_element", "atom_resolved"):
                assert (whole[column][here] == one[column][there]).all()
            copied, first = (
                record["conformer_position"][:, record["atom_conformer"][atoms]]
                for record, atoms in ((whole, here), (one, there))
            )
            assert (copied == first).all()
            some = np.flatnonzero(whole["atom_resolved"][here])[:: max(1, len(here) // 150)]
            apart = distances(whole["atom_position"][here[some]])
            assert np.allclose(apart, distances(one["atom_position"][there[some]]), atol=2e-3)


def atoms_by_chain(structure):
    chain = structure["token_chain"][structure["atom_token"]]
    return [np.flatnonzero(chain == number) for number in range(len(structure.facts["chains"]))]


def distances(points):
    return np.linalg.norm(points[:, None].astype(np.float64) - points, axis=-1)
