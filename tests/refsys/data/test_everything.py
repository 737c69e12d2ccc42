"""Every structure of the package set: consistent records, and valid batches of every crop."""

from collections import Counter

import numpy as np
import pytest

from refsys.batch import DNA, LIGAND, PROTEIN, RNA
from refsys.data.batches.construction import ATOM_STEP, ExampleSpec, example_batch
from refsys.data.batches.labels import symmetries_of
from refsys.data.prepare.fetch import PACKAGES, packages
from refsys.data.vocabulary import GAP

SPEC = {"tokens": 384, "alignment_rows": 16, "whole": True, "templates": 2}
# Most atoms of a token: guanosine at the start of a chain.
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


def test_store_of_all_packages_has_every_entry_and_token(everything):
    assert everything.entries() == sorted(ENTRIES)
    assert len(set(ENTRIES)) == len(ENTRIES) == 88 + 3
    every = [everything.open(entry).structure for entry in everything.entries()]
    tokens = sum(len(structure["token_residue_type"]) for structure in every)
    # As deposited, each of the 12 selenomethionines is a token for each of its eight atoms.
    assert tokens == 138_847 + 167 + 2_954 - 12 * 7
    assert {structure.facts["dropped_atoms"] for structure in every} == {0}


@pytest.mark.parametrize("entry", ENTRIES)
def test_structure_columns_are_consistent(everything, entry):
    """Tokens, residues and chains are consistent, and bonded atoms are near one another."""
    columns = everything.open(entry).structure
    atoms, tokens = len(columns["atom_token"]), len(columns["token_residue"])
    first, residue_first = columns["token_first_atom"], columns["residue_first_atom"]
    assert first[0] == residue_first[0] == 0
    assert first[-1] == residue_first[-1] == atoms
    assert (np.repeat(np.arange(tokens), np.diff(first)) == columns["atom_token"]).all()
    owner = np.repeat(np.arange(len(residue_first) - 1), np.diff(residue_first))
    assert (columns["token_residue"][columns["atom_token"]] == owner).all()
    assert (columns["residue_chain"][columns["token_residue"]] == columns["token_chain"]).all()
    assert (np.diff(columns["token_chain"]) >= 0).all()
    named = np.stack([owner, columns["atom_name"].astype("S4").view(">u4")], axis=1)
    assert len(np.unique(named, axis=0)) == atoms
    assert not columns["atom_position"][~columns["atom_resolved"]].any()
    unknown = columns["atom_conformer"][~columns["atom_reference_known"]]
    assert not columns["conformer_position"][:, unknown].any()
    ends = columns["bond_atoms"]
    assert (columns["atom_token"][ends[:, 0]] != columns["atom_token"][ends[:, 1]]).all()
    resolved_bonds = ends[columns["atom_resolved"][ends].all(axis=1)]
    lengths = np.linalg.norm(
        np.diff(columns["atom_position"][resolved_bonds], axis=1)[:, 0], axis=1
    )
    # Low resolution strains bonds; exchanged names would double their length.
    assert (lengths < 3.0).all()
    assert (lengths > 0.7).all()


@pytest.mark.parametrize("entry", ENTRIES)
def test_automorphisms_and_chain_copies_preserve_elements(everything, entry):
    symmetries = symmetries_of(everything.open(entry).structure)
    elements = everything.open(entry).structure["atom_element"]
    first = np.searchsorted(symmetries.residue_of_atom, np.arange(len(symmetries.residue_symmetry)))
    for number, table in enumerate(symmetries.symmetries):
        assert len(table) > 1
        assert (table[0] == np.arange(table.shape[1])).all()
        assert (np.sort(table, axis=1) == table[0]).all()
        first_atoms = first[symmetries.residue_symmetry == number]
        assert len(first_atoms)
        kinds = elements[first_atoms[0] + np.arange(table.shape[1])]
        assert (kinds[table] == kinds).all()
    groups = [np.flatnonzero(symmetries.chain_group == g) for g in set(symmetries.chain_group)]
    sizes = np.bincount(symmetries.chain_of_atom, minlength=len(symmetries.chain_group))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    for chain, *copies in groups:
        elements_of_chain = elements[starts[chain] : starts[chain + 1]]
        for copy in copies:
            assert (elements[starts[copy] : starts[copy + 1]] == elements_of_chain).all()


@pytest.mark.parametrize("entry", ENTRIES)
def test_batches_satisfy_invariants(everything, entry):
    example = everything.open(entry)
    for step, kind in enumerate(KINDS):
        spec = ExampleSpec(crop=kind, **SPEC)
        check(arrays(example_batch(example, spec, step)), example)


def check(b, example):
    """Check the invariants of a batch of the full model."""
    check_padding(b)
    check_atoms(b, example)
    check_atom_indices(b)
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
    """Check that tokens have all their atoms, in order."""
    tokens, token = int(b["token_mask"].sum()), b["atom_token"][b["atom_mask"]]
    assert (np.diff(token) >= 0).all()
    assert token[0] >= 0
    assert token[-1] < tokens
    assert (b["atom_token"][~b["atom_mask"]] == -1).all()
    tokens_of_crop = b["token_index"][:tokens]
    assert (np.diff(tokens_of_crop) > 0).all()
    counts = np.bincount(token, minlength=tokens)
    assert (counts == np.diff(example.structure["token_first_atom"])[tokens_of_crop]).all()
    slots = np.arange(len(token)) - (np.cumsum(counts) - counts)[token]
    assert (b["atom_slot"][b["atom_mask"]] == slots).all()
    assert slots.max() < MOST_ATOMS
    assert np.isfinite(b["atom_position"]).all()
    assert np.isfinite(b["reference_position"]).all()
    assert not b["atom_position"][~b["atom_resolved"]].any()
    assert not b["reference_position"][~b["reference_mask"]].any()


def check_atom_indices(b):
    """Check that centres, representatives and frames are atoms of their token or residue."""
    tokens, token = int(b["token_mask"].sum()), b["atom_token"]
    counts = np.bincount(token[b["atom_mask"]], minlength=tokens)
    for name in ("center_atom", "representative_atom"):
        atoms = b[name][:tokens]
        assert ((atoms >= 0) == (counts > 0)).all()
        assert (token[atoms[atoms >= 0]] == np.flatnonzero(atoms >= 0)).all()
    frames = b["frame_atoms"][:tokens]
    has_frame = (frames >= 0).all(axis=1)
    assert (has_frame == (frames >= 0).any(axis=1)).all()
    assert (token[frames[has_frame, 1]] == np.flatnonzero(has_frame)).all()
    standard = has_frame & (b["element"][:tokens] == 0)
    assert (token[frames[standard]] == np.flatnonzero(standard)[:, None]).all()
    space = b["reference_space"][frames[has_frame]]
    assert (space == space[:, :1]).all()
    assert (np.diff(np.sort(frames[has_frame], axis=1), axis=1) > 0).all()
    atom, has_position = b["representative_atom"], b["pseudo_beta_mask"]
    assert (has_position == ((atom >= 0) & b["atom_resolved"][atom])).all()
    assert (b["pseudo_beta"][has_position] == b["atom_position"][atom[has_position]]).all()
    assert not b["pseudo_beta"][~has_position].any()


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
    """Check MSA rows and templates."""
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
    def test_earthworm_hemoglobin_assembly_has_twelve_copies(self, everything):
        one, all_of_it = everything.open("2gtl"), everything.open("2gtl-assembly1")
        assert all_of_it.tokens == 12 * one.tokens == 35_568

    def test_dimer_assembly_has_twice_the_tokens_of_its_chain(self, everything):
        one, two = everything.open("3en2"), everything.open("3en2-assembly1")
        assert two.tokens == 2 * one.tokens
        for name in ("bond_atoms", "atom_token", "residue_chain"):
            assert len(two.structure[name]) == 2 * len(one.structure[name])

    @pytest.mark.parametrize("entry", ["3en2", "2hyy", "2gtl"])
    def test_assembly_chains_are_rigid_copies(self, everything, entry):
        one, whole = (everything.open(name).structure for name in (entry, f"{entry}-assembly1"))
        place_of = {chain["name"]: number for number, chain in enumerate(one.facts["chains"])}
        original = atoms_by_chain(one)
        copies = atoms_by_chain(whole)
        copies_of = Counter()
        for number, chain in enumerate(whole.facts["chains"]):
            name = chain["name"].split("-")[0]
            copies_of[name] += 1
            assert chain["name"] == (name if copies_of[name] == 1 else f"{name}-{copies_of[name]}")
            copy_atoms, chain_atoms = copies[number], original[place_of[name]]
            for column in ("atom_name", "atom_element", "atom_resolved"):
                assert (whole[column][copy_atoms] == one[column][chain_atoms]).all()
            copied, first = (
                record["conformer_position"][:, record["atom_conformer"][atoms]]
                for record, atoms in ((whole, copy_atoms), (one, chain_atoms))
            )
            assert (copied == first).all()
            some = np.flatnonzero(whole["atom_resolved"][copy_atoms])[
                :: max(1, len(copy_atoms) // 150)
            ]
            apart = distances(whole["atom_position"][copy_atoms[some]])
            assert np.allclose(apart, distances(one["atom_position"][chain_atoms[some]]), atol=2e-3)


def atoms_by_chain(structure):
    chain = structure["token_chain"][structure["atom_token"]]
    return [np.flatnonzero(chain == number) for number in range(len(structure.facts["chains"]))]


def distances(points):
    return np.linalg.norm(points[:, None].astype(np.float64) - points, axis=-1)
