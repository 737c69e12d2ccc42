"""Labels of a batch follow the prediction among equivalent chains and atoms, and only those."""

import numpy as np
import pytest
import torch
from support import mmcif as part
from support.mmcif import mmcif

from refsys.data.batches.construction import ExampleSpec
from refsys.data.batches.examples import Examples
from refsys.data.batches.label_permutation import permuted_rows
from refsys.data.batches.labels import symmetries_of
from refsys.data.formats.mmcif import read_structure
from refsys.data.prepare.entries import Sources, prepare
from refsys.data.store.store import Store

LABELS = ("atom_position", "atom_resolved", "pseudo_beta", "pseudo_beta_mask")
# Complexes with several copies of one or two chains in the asymmetric unit.
COPIES = ("2q2k", "5vht", "1kd8", "1ngx", "3kpr", "8ufz", "7gj7")


def whole_of(store, entry, **changes):
    spec = {"tokens": store.open(entry).tokens, "alignment_rows": 1, "whole": True} | changes
    return Examples(store, [entry], ExampleSpec(**spec))


@pytest.mark.parametrize("entry", ["1ubq", "8vkf", "2q2k", "19hc", "5lwx", "3kpr", "8ufz", "6yfy"])
def test_relabelled_batch_is_unchanged_for_a_prediction_equal_to_its_labels(everything, entry):
    examples = whole_of(everything, entry, tokens=384, batch=2)
    for step in range(3):
        batch = examples[step]
        again = examples.relabelled(batch, batch["atom_position"], step)
        assert all(torch.equal(batch[name], again[name]) for name in batch)


def test_relabelled_batch_is_unchanged_for_a_moved_prediction(everything):
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    examples = whole_of(everything, "2q2k")
    batch = examples[0]
    again = examples.relabelled(batch, batch["atom_position"] @ turn.T + 30.0, 0)
    assert all(torch.equal(batch[name], again[name]) for name in batch)


def pairs_of_copies(structure):
    """Yield pairs of polymer chains that are copies: the first copy and another one."""
    groups = symmetries_of(structure).chain_group
    for number, group in enumerate(groups.tolist()):
        first = groups.tolist().index(group)
        if first != number and structure.facts["chains"][number]["kind"] != "ligand":
            yield first, number


@pytest.mark.parametrize("entry", COPIES)
def test_labels_follow_exchanged_chain_copies(everything, entry):
    """Exchanging the first two copies of each chain in the prediction exchanges their labels."""
    examples = whole_of(everything, entry)
    structure, batch = everything.open(entry).structure, examples[0]
    chain = structure["token_chain"][structure["atom_token"]]
    order = np.arange(len(chain))
    exchanged = {}
    for one, other in pairs_of_copies(structure):
        if one not in exchanged:
            exchanged[one] = other
            rows_of_one, rows_of_other = (
                np.flatnonzero(chain == number) for number in (one, other)
            )
            order[rows_of_one], order[rows_of_other] = rows_of_other, rows_of_one
    assert exchanged
    atoms, order = len(chain), torch.from_numpy(order)
    predicted = batch["atom_position"].clone()
    predicted[0, :atoms] = predicted[0, order]
    again = examples.relabelled(batch, predicted, 0)
    for name in ("atom_position", "atom_resolved"):
        expected = batch[name].clone()
        expected[0, :atoms] = expected[0, order]
        assert torch.equal(again[name], expected), name
    assert not torch.equal(again["atom_position"], batch["atom_position"])
    atom = batch["representative_atom"][0].long()
    has_representative = (atom >= 0) & again["atom_resolved"][0][atom]
    assert torch.equal(again["pseudo_beta_mask"][0], has_representative)
    assert torch.equal(
        again["pseudo_beta"][0][has_representative],
        again["atom_position"][0][atom[has_representative]],
    )
    unchanged = set(batch) - set(LABELS)
    assert all(torch.equal(batch[name], again[name]) for name in unchanged)


def test_crop_takes_the_label_of_a_copy_outside_it(everything):
    """The crop is inside one of two copies and predicted at the position of the other."""
    examples = whole_of(everything, "5vht", tokens=16, crop="spatial")
    structure = everything.open("5vht").structure
    chain = structure["token_chain"][structure["atom_token"]]
    first = [int(np.flatnonzero(chain == number)[0]) for number in (0, 1)]
    crops = 0
    for step in range(20):
        batch = examples[step]
        tokens = batch["token_index"][0][batch["token_mask"][0]].long().numpy()
        if set(structure["token_chain"][tokens].tolist()) != {0}:
            continue
        starts = structure["token_first_atom"]
        rows = np.concatenate([np.arange(starts[t], starts[t + 1]) for t in tokens])
        other = rows - first[0] + first[1]
        # A single chain is compared by its shape alone, and the two copies differ in shape.
        predicted = batch["atom_position"].clone()
        predicted[0, : len(rows)] = torch.from_numpy(structure["atom_position"][other])
        again = examples.relabelled(batch, predicted, step)["atom_position"][0, : len(rows)]
        both = structure["atom_resolved"][rows] & structure["atom_resolved"][other]
        assert np.array_equal(again[both].numpy(), structure["atom_position"][other[both]])
        crops += 1
    assert crops


def test_labels_follow_exchanged_equivalent_atoms(everything):
    """The sides of a phenylalanine ring are exchanged in the prediction."""
    examples = whole_of(everything, "1ubq")
    structure, batch = everything.open("1ubq").structure, examples[0]
    residue = int(np.flatnonzero(structure["residue_component"] == b"PHE")[0])
    start = structure["residue_first_atom"][residue]
    names = structure["atom_name"][start : start + 11].tolist()
    order = torch.arange(batch["atom_mask"].shape[1])
    for one, other in ((b"CD1", b"CD2"), (b"CE1", b"CE2")):
        rows_of_one, rows_of_other = (start + names.index(name) for name in (one, other))
        order[[rows_of_one, rows_of_other]] = order[[rows_of_other, rows_of_one]]
    predicted = batch["atom_position"][:, order]
    again = examples.relabelled(batch, predicted, 0)
    assert torch.equal(again["atom_position"], predicted)


def test_chain_groups_have_one_entity_and_the_same_atoms(tmp_path):
    """An alternative component, or a bond to another molecule, makes a chain different."""
    chains = part.CHAINS.replace("A 1\n", "A 1\nD 1\nE 1\nF 1\n")
    sequence = part.SEQUENCE.replace("1 2 GLY", "1 2 GLY\n1 2 SER")
    first = "ATOM 1 C CA . {} {} 1 {} {} 1.0 0.0 0.0 1.0 ? 1"
    atoms = [first.format("GLY", name, 2, 2) for name in "ADEF"]
    atoms[2] = first.format("SER", "E", 2, 2)
    atoms.append("ATOM 9 C C . ALA F 1 4 4 3.0 0.0 0.0 1.0 ? 1")
    atoms.append("ATOM 9 N N . ALA F 1 4 4 3.0 1.3 0.0 1.0 ? 1")
    atoms += part.ATOM_ROWS[8:9]
    connection = "c1 covale F 4 C 1_555 B ? ZN 101 1_555"
    header = [line for line in part.CONNECTIONS.splitlines() if line.startswith(("loop", "_"))]
    path = tmp_path / "x.cif"
    path.write_text(
        mmcif(
            chains=chains,
            sequence=sequence,
            atoms=atoms,
            connections="\n".join((*header, connection, "#\n")),
        ),
        encoding="utf-8",
    )
    names = [chain.name for chain in read_structure(path).chains]
    assert names == ["A", "D", "E", "F", "B"]
    store = Store(tmp_path / "store")
    prepare(store, Sources(structure=path))
    symmetries = symmetries_of(store.open("test").structure)
    assert symmetries.chain_group.tolist() == [0, 0, 1, 2, 3]
    assert symmetries.polymer.tolist() == [True] * 4 + [False]


def test_atoms_bonded_to_another_residue_are_not_exchanged(everything):
    """An atom that bonds its residue to another takes labels of such atoms alone."""
    structure = everything.open("19hc").structure
    symmetries = symmetries_of(structure)
    residue = symmetries.residue_of_atom
    ends = structure["bond_atoms"]
    held = np.unique(ends[residue[ends[:, 0]] != residue[ends[:, 1]]])
    assert len(held)
    rows = np.arange(len(residue))
    predicted = np.random.default_rng(0).normal(size=(len(rows), 3)) * 30
    label_rows = permuted_rows(predicted, rows, symmetries)
    first = np.searchsorted(residue, residue)
    slot = rows - first
    assert (slot[label_rows] != slot).any()
    assert (slot[label_rows[held]] == slot[held]).all()
