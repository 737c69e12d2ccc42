"""Synthetic batches, for shapes that no real entry has and for machines without data.

One protein chain of random residues along a random walk of 3.8 Å steps, with a random MSA; for the
full model also eight atoms around each step, and templates that are the structure with noise. They
are a function of (seed, step) and of the sizes.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from refsys.batch import ALPHAFOLD3_FIELDS, ATOM_WINDOW, PROTEIN, Batch
from refsys.data.batches.atom_features import LIGAND_BONDS
from refsys.data.batches.construction import BONDS_PER_TOKEN, ExampleSpec
from refsys.data.vocabulary import RESIDUE_CLASSES
from refsys.streams import Draw

# A residue of eight atoms, about as many as proteins have on average: names and atomic numbers.
_ATOMS = (
    *(("N", 7), ("CA", 6), ("C", 6), ("O", 8)),
    *(("CB", 6), ("CG", 6), ("CD", 6), ("CE", 6)),
)
ATOMS_PER_TOKEN = len(_ATOMS)
_BACKBONE, _CENTER, _REPRESENTATIVE = (0, 1, 2), 1, 4


def synthetic_batch(spec: ExampleSpec, step: int) -> Batch:
    """Return a batch of the trunk's fields that fills the sizes of `spec`."""
    return Batch.stacked([_example(spec, step, index) for index in spec.indices])


def _example(spec: ExampleSpec, step: int, index: int) -> Batch:
    tokens, rows = spec.tokens, spec.alignment_rows

    def draw(name: str) -> Draw:
        return Draw(spec.seed, f"synthetic/{name}", step, index)

    shape = spec.cycles, rows, tokens
    codes = (draw("alignment").integers(math.prod(shape)) % 20).astype(np.uint8).reshape(shape)
    codes[:, 0] = codes[0, 0]
    deletions = (draw("deletions").uniform(math.prod(shape)) < 0.02).reshape(shape)
    steps = draw("walk").normal(tokens * 3).reshape(tokens, 3)
    steps *= 3.8 / np.linalg.norm(steps, axis=1, keepdims=True)
    frequencies = np.eye(RESIDUE_CLASSES, dtype=np.float32)[codes[0]].mean(axis=0)
    token_index = np.arange(tokens, dtype=np.int32)
    arrays = {
        "example": np.int64(index),
        "token_mask": np.ones(tokens, np.bool_),
        "residue_type": codes[0, 0],
        "residue_index": token_index + 1,
        "token_index": token_index,
        "asym_id": np.zeros(tokens, np.int32),
        "entity_id": np.zeros(tokens, np.int32),
        "sym_id": np.zeros(tokens, np.int32),
        "element": np.zeros(tokens, np.uint8),
        "profile": frequencies,
        "deletion_mean": deletions[0].mean(axis=0, dtype=np.float32),
        "alignment": codes,
        "deletions": deletions.astype(np.uint8),
        "alignment_row_mask": np.ones((spec.cycles, rows), np.bool_),
        "bonds": np.full((tokens * BONDS_PER_TOKEN, 2), -1, np.int32),
        "pseudo_beta": np.cumsum(steps, axis=0, dtype=np.float32),
        "pseudo_beta_mask": np.ones(tokens, np.bool_),
    }
    return Batch({name: torch.from_numpy(np.array(array)[None]) for name, array in arrays.items()})


def synthetic_alphafold3_batch(spec: ExampleSpec, step: int) -> Batch:
    """Return a batch of the full model's fields: also atoms, labels and templates."""
    return Batch.stacked([_alphafold3_example(spec, step, index) for index in spec.indices])


def _alphafold3_example(spec: ExampleSpec, step: int, index: int) -> Batch:
    trunk, tokens = _example(spec, step, index), spec.tokens
    atoms, templates = tokens * ATOMS_PER_TOKEN, spec.templates

    def normal(name: str, *shape: int) -> NDArray[np.float32]:
        draw = Draw(spec.seed, f"synthetic/{name}", step, index)
        return draw.normal(int(np.prod(shape))).reshape(shape)

    center = trunk["pseudo_beta"][0].numpy()
    shape = np.tile(1.5 * normal("residue", ATOMS_PER_TOKEN, 3), (tokens, 1))
    position = (
        np.repeat(center, ATOMS_PER_TOKEN, axis=0) + shape + 0.2 * normal("thermal", atoms, 3)
    )
    token = np.repeat(np.arange(tokens, dtype=np.int32), ATOMS_PER_TOKEN)
    first = np.arange(tokens, dtype=np.int32) * ATOMS_PER_TOKEN
    frame = first[:, None] + np.array(_BACKBONE, np.int32)
    letters = np.array([[ord(c) - 32 for c in name.ljust(4)] for name, _ in _ATOMS], np.uint8)
    copies = position + normal("templates", templates, atoms, 3)
    arrays = {
        "atom_mask": np.ones(atoms, np.bool_),
        "atom_token": token,
        "reference_position": shape.astype(np.float32),
        "reference_mask": np.ones(atoms, np.bool_),
        "reference_element": np.tile(np.array([z for _, z in _ATOMS], np.uint8), tokens),
        "reference_charge": np.zeros(atoms, np.int8),
        "reference_name": np.tile(letters, (tokens, 1)),
        "reference_space": token,
        "template_mask": np.ones(templates, np.bool_),
        "template_residue_type": np.tile(trunk["residue_type"][0].numpy(), (templates, 1)),
        "template_pseudo_beta": copies[:, first + _REPRESENTATIVE],
        "template_pseudo_beta_mask": np.ones((templates, tokens), np.bool_),
        "template_backbone": copies[:, frame],
        "template_backbone_mask": np.ones((templates, tokens), np.bool_),
        "atom_position": position.astype(np.float32),
        "atom_resolved": np.ones(atoms, np.bool_),
        "atom_slot": np.tile(np.arange(ATOMS_PER_TOKEN, dtype=np.uint8), tokens),
        "molecule": np.full(tokens, PROTEIN, np.uint8),
        "center_atom": first + _CENTER,
        "representative_atom": first + _REPRESENTATIVE,
        "frame_atoms": frame,
        "ligand_bonds": np.full((LIGAND_BONDS, 2), -1, np.int32),
        "resolution": np.float32(2.0),
    }
    tensors = {name: torch.from_numpy(np.array(array)[None]) for name, array in arrays.items()}
    whole = Batch({**trunk, **tensors}, ALPHAFOLD3_FIELDS)
    return whole.padded(atom=spec.atoms or -(-atoms // ATOM_WINDOW) * ATOM_WINDOW)
