"""Targets of the confidence head against NumPy transcriptions of the supplement, in float64.

The transcriptions follow section 4.3.1 (predicted lDDT) and Algorithms 29 and 30 (aligned error),
and select atoms by the names of atoms, residues and chains only.
"""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from support.trunks import whole

from refsys.data.batches.construction import ExampleSpec, example_batch
from refsys.losses.confidence import aligned_errors, lddt_of_atoms

AMINO_ACIDS = (
    "ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL".split()
)
PURINES, PYRIMIDINES = {"A", "G", "DA", "DG"}, {"C", "U", "DC", "DT"}
# A protein; a protein and DNA with modified bases; a protein with a heme, an inhibitor and ions.
ENTRIES = ("1ubq", "2q2k", "8vkf")


class Case(NamedTuple):
    """Uncropped entry in the order of its record, and a perturbed copy of its positions."""

    structure: dict
    batch: dict
    truth: np.ndarray
    predicted: np.ndarray


@pytest.fixture(scope="module", params=ENTRIES)
def case(request, store):
    example = store.open(request.param)
    spec = ExampleSpec(tokens=example.tokens, alignment_rows=1, whole=True)
    batch = example_batch(example, spec, step=0)
    truth = batch["atom_position"].double()
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(4)).double()
    return Case(example.structure, batch, truth, truth + 0.8 * noise)


def center_atoms(structure):
    """Return row and kind of the centre atoms (Cα, C1′) of standard residues."""
    atoms = []
    for residue, chain in enumerate(structure["residue_chain"]):
        kind = structure.facts["chains"][chain]["kind"]
        component = structure["residue_component"][residue].decode()
        first, end = structure["residue_first_atom"][residue : residue + 2]
        names = [name.decode() for name in structure["atom_name"][first:end]]
        if kind == "protein" and component in AMINO_ACIDS:
            atoms.append((first + names.index("CA"), kind))
        elif kind in {"rna", "dna"} and component in PURINES | PYRIMIDINES:
            atoms.append((first + names.index("C1'"), kind))
    return atoms


def test_plddt_targets_equal_section_4_3_1_of_the_supplement(case):
    structure, batch, truth, predicted = case
    resolved = structure["atom_resolved"]
    true, ours = (x[0, : len(resolved)].numpy() for x in (truth, predicted))
    centers = [(row, kind) for row, kind in center_atoms(structure) if resolved[row]]
    m = np.array([row for row, _ in centers])
    reach = np.array([15.0 if kind == "protein" else 30.0 for _, kind in centers])
    lddt, scored = (t[0].numpy() for t in lddt_of_atoms(predicted, truth, batch, whole(batch)))
    for atom in np.flatnonzero(resolved):
        distance = np.linalg.norm(true[atom] - true[m], axis=1)
        error = np.abs(np.linalg.norm(ours[atom] - ours[m], axis=1) - distance)
        score = np.mean([error < t for t in (0.5, 1.0, 2.0, 4.0)], axis=0)
        inside = (distance < reach) & (m != atom)
        assert scored[atom] == inside.any()
        if inside.any():
            assert lddt[atom] == pytest.approx(score[inside].mean(), abs=1e-12)


def unit(v):
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def express_coordinates_in_frame(x, a, b, c):
    """Return x in the frame of (a, b, c), as in Algorithm 29."""
    w1, w2 = unit(a - b), unit(c - b)
    e1, e2 = unit(w1 + w2), unit(w2 - w1)
    e3 = np.cross(e1, e2)
    d = x - b
    return np.stack([d @ e1, d @ e2, d @ e3], axis=-1)


def representatives(structure):
    """Return the row of each token's representative atom, by name; a ligand atom is its own."""
    rows = []
    for token, residue in enumerate(structure["token_residue"]):
        first, end = structure["token_first_atom"][token : token + 2]
        names = [name.decode() for name in structure["atom_name"][first:end]]
        component = structure["residue_component"][residue].decode()
        name = "CA" if component == "GLY" else "CB"
        name = "C4" if component in PURINES else "C2" if component in PYRIMIDINES else name
        rows.append(first + (names.index(name) if structure["token_element"][token] == 0 else 0))
    return np.array(rows)


def test_pae_targets_equal_algorithm_29_of_the_supplement(case):
    structure, batch, truth, predicted = case
    resolved = structure["atom_resolved"]
    true, ours = (x[0, : len(resolved)].numpy() for x in (truth, predicted))
    atoms = representatives(structure)
    error, mask = (t[0].numpy() for t in aligned_errors(predicted, truth, batch, whole(batch)))
    frames = 0
    for token, corners in enumerate(structure["token_frame"]):
        has_frame = (corners >= 0).all() and resolved[corners].all()
        if has_frame:
            a, b, c = true[corners]
            cosine = abs(unit(a - b) @ unit(c - b))
            has_frame = cosine <= np.cos(np.radians(25.0))
        if not has_frame:
            assert not mask[token].any()
            continue
        frames += 1
        coordinates = [express_coordinates_in_frame(x[atoms], *x[corners]) for x in (ours, true)]
        expected = np.linalg.norm(coordinates[0] - coordinates[1], axis=-1)
        valid = mask[token]
        assert (valid == resolved[atoms]).all()
        np.testing.assert_allclose(error[token, valid], expected[valid], rtol=0, atol=1e-9)
    assert frames > 0.7 * len(structure["token_frame"])
