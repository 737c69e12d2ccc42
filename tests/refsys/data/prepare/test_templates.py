"""Templates: aligned residues, chains of a batch, and sampling."""

import numpy as np
import pytest
from biotite.sequence import ProteinSequence
from biotite.sequence.align import SubstitutionMatrix, align_optimal
from biotite.structure import superimpose

from refsys.data.batches.construction import ExampleSpec, crop_of, example_batch
from refsys.data.prepare.entries import Sources, prepare
from refsys.data.store.store import Store
from refsys.data.vocabulary import AMINO_ACIDS, GAP, UNKNOWN

BLANK = {
    "residue_type": GAP,
    "pseudo_beta": 0,
    "pseudo_beta_mask": False,
    "backbone": 0,
    "backbone_mask": False,
}
LETTERS = dict(enumerate(AMINO_ACIDS.values())) | {UNKNOWN: "X"}


@pytest.fixture(scope="module")
def kinase(everything):
    """Return the entry of the Abl kinase domain, with Src as its template."""
    return everything.open("2hyy")


@pytest.fixture(scope="module")
def source(everything):
    return everything.open("1y57").structure


def backbone_of(structure, chain):
    """Return positions of N, Cα and C [residue, 3, 3], and whether all were modelled."""
    residues = np.flatnonzero(structure["residue_chain"] == chain)
    rows = structure["residue_first_atom"][residues][:, None] + np.arange(3)
    assert (structure["atom_name"][rows] == [b"N", b"CA", b"C"]).all()
    return structure["atom_position"][rows], structure["atom_resolved"][rows].all(axis=1)


def test_template_equals_the_source_structure_in_order(kinase, source):
    """Residues and atoms are those of Src, each at most once, from the first to the last."""
    template = kinase.templates[0]
    assert template.facts["templates"] == ["1y57 A"]
    assert template.path == kinase.templates[3].path
    backbone, modelled = backbone_of(source, 0)
    place_of = {
        atoms.tobytes(): residue for residue, atoms in enumerate(backbone) if modelled[residue]
    }
    aligned = template["backbone_mask"][0]
    places = [place_of[atoms.tobytes()] for atoms in template["backbone"][0, aligned]]
    assert (np.diff(places) > 0).all()
    assert len(places) > 240
    types = source["token_residue_type"][: len(backbone)]
    assert (template["residue_type"][0, aligned] == types[places]).all()
    assert not template["backbone"][0, ~aligned].any()
    assert not template["pseudo_beta"][0, ~template["pseudo_beta_mask"][0]].any()
    beta = template["pseudo_beta"][0, aligned & template["pseudo_beta_mask"][0]]
    alpha = template["backbone"][0, aligned & template["pseudo_beta_mask"][0], 1]
    lengths = np.linalg.norm(beta - alpha, axis=1)
    assert set(np.round(lengths[lengths > 0], 0)) <= {1.0, 2.0}


def test_template_alignment_agrees_with_biotite(kinase):
    """Compare the residues that both alignments pair."""
    template = kinase.templates[0]
    residue_types = template["residue_type"][0]
    template_sequence = "".join(LETTERS[code] for code in residue_types[residue_types != GAP])
    trace = align_optimal(
        ProteinSequence(kinase.structure.facts["chains"][0]["sequence"]),
        ProteinSequence(template_sequence),
        SubstitutionMatrix.std_protein_matrix(),
        gap_penalty=(-10, -1),
        terminal_penalty=False,
    )[0].trace
    both = trace[(trace >= 0).all(axis=1)]
    places = np.flatnonzero(residue_types != GAP)
    assert (places[both[:, 1]] == both[:, 0]).mean() > 0.95
    like = residue_types == kinase.structure["token_residue_type"][: len(residue_types)]
    assert 0.4 < like[residue_types != GAP].mean() < 0.6


def test_template_superimposes_on_the_chain(kinase):
    """Superimpose the two kinases by the residues that the template aligns."""
    backbone, modelled = backbone_of(kinase.structure, 0)
    template = kinase.templates[0]
    both = modelled & template["backbone_mask"][0]
    fixed, mobile = backbone[both, 1], template["backbone"][0, both, 1]
    superimposed, _ = superimpose(fixed, mobile)
    assert np.median(np.linalg.norm(superimposed - fixed, axis=1)) < 2.5
    superimposed, _ = superimpose(fixed[3:], mobile[:-3])
    assert np.median(np.linalg.norm(superimposed - fixed[3:], axis=1)) > 2.5


def test_batch_has_templates_at_the_tokens_of_their_chains(kinase):
    chains = kinase.structure["token_chain"]
    proteins = [c["kind"] == "protein" for c in kinase.structure.facts["chains"]]
    assert [number in kinase.templates for number in range(len(proteins))] == proteins
    filled = 0
    for step in range(8):
        spec = ExampleSpec(tokens=400, alignment_rows=1, whole=True, templates=3)
        tokens = crop_of(kinase, spec, step, 0)
        batch = {name: t[0].numpy() for name, t in example_batch(kinase, spec, step).items()}
        numbers = kinase.structure["token_residue_index"][tokens] - 1
        assert not batch["template_mask"][1:].any()
        for name, blank in BLANK.items():
            field = batch[f"template_{name}"]
            assert (field[1:] == blank).all()
            for chain in np.unique(chains[tokens]):
                in_chain = np.flatnonzero(chains[tokens] == chain)
                if (field[0, in_chain] != blank).any():
                    expected = kinase.templates[int(chain)][name][0, numbers[in_chain]]
                    assert (field[0, in_chain] == expected).all()
                    filled += 1
    assert filled


def test_number_of_templates_in_a_batch_is_uniform_up_to_four(tmp_path, sources):
    """Six, of which four fit: 0 to 3 as often as each other, 4 thrice as often."""
    path = sources["1ubq"].structure.cached
    store = Store(tmp_path / "store")
    prepare(store, Sources(structure=path, templates={"A": [(path, "A")] * 6}))
    example = store.open("1ubq")
    counts = np.zeros(5, int)
    for step in range(700):
        spec = ExampleSpec(tokens=4, alignment_rows=1, whole=True, templates=4)
        mask = example_batch(example, spec, step)["template_mask"][0]
        counts[int(mask.sum())] += 1
        assert mask.tolist() == sorted(mask.tolist(), reverse=True)
    assert (abs(counts - [100, 100, 100, 100, 300]) < [45, 45, 45, 45, 60]).all()


def test_template_masks_residues_that_were_not_modelled(tmp_path, sources):
    """A structure that is its own template has the gaps of its labels."""
    path, store = sources["3en2"].structure.cached, Store(tmp_path / "store")
    files = Sources(structure=path, templates={"A": [(path, "A")]}, as_deposited=True)
    prepare(store, files)
    example = store.open("3en2")
    template, structure = example.templates[0], example.structure
    standard = np.flatnonzero((structure["token_chain"] == 0) & (structure["token_element"] == 0))
    residues = structure["token_residue_index"][standard] - 1
    beta = structure["token_representative"][standard]
    assert (template["pseudo_beta_mask"][0, residues] == structure["atom_resolved"][beta]).all()
    assert (template["pseudo_beta"][0, residues] == structure["atom_position"][beta]).all()
    # Selenomethionines are one token per atom, which templates leave out.
    not_standard = np.setdiff1d(np.arange(len(template["residue_type"][0])), residues)
    assert len(not_standard) == 3
    assert (template["residue_type"][0, not_standard] == GAP).all()
    assert not template["backbone_mask"][0, not_standard].any()
