"""Atom, label and template features of a crop: the full model's fields beside the trunk's."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refsys.batch import LIGAND
from refsys.data.store.columns import Columns
from refsys.data.store.store import Example
from refsys.data.vocabulary import GAP
from refsys.errors import CapacityError
from refsys.streams import Draw

# Capacity of a batch for bonds between polymers and ligands.
LIGAND_BONDS = 64
_LETTERS = 4
# Random numbers for each conformer: four give a rotation, three a translation, one is unused.
_RIGID = 8


def crop_atoms(example: Example, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of the atoms of the crop's tokens, ascending."""
    first = example.structure["token_first_atom"].astype(np.int64)
    counts = first[tokens + 1] - first[tokens]
    before = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.repeat(first[tokens] - before, counts) + np.arange(counts.sum())


def atom_arrays(example: Example, tokens: NDArray[np.int64], draw: Draw) -> dict[str, NDArray[Any]]:
    """Return the atom and label fields of a crop, without padding.

    Args:
        example: Records of the entry.
        tokens: [token] numbers of the crop's tokens, ascending.
        draw: RNG key of the conformers' rigid motions.

    Raises:
        CapacityError: the crop has more bonds to ligands than a batch holds.
    """
    structure = example.structure
    rows = crop_atoms(example, tokens)
    first = structure["token_first_atom"].astype(np.int64)
    token = np.repeat(np.arange(len(tokens), dtype=np.int32), first[tokens + 1] - first[tokens])
    residue = structure["token_residue"][tokens][token]
    names = structure["atom_name"][rows]
    letters = names.view(np.uint8).reshape(len(rows), _LETTERS)
    return {
        "atom_mask": np.ones(len(rows), np.bool_),
        "atom_token": token,
        "reference_position": _reference_positions(structure, rows, residue, draw),
        "reference_mask": structure["atom_reference_known"][rows],
        "reference_element": structure["atom_element"][rows],
        "reference_charge": structure["atom_charge"][rows],
        "reference_name": np.maximum(letters, 32) - 32,
        "reference_space": residue,
        "atom_position": structure["atom_position"][rows],
        "atom_resolved": structure["atom_resolved"][rows],
        "atom_slot": (rows - first[tokens][token]).astype(np.uint8),
        "molecule": structure["token_molecule"][tokens],
        "center_atom": _crop_indices(structure["token_center"][tokens], rows),
        "representative_atom": _crop_indices(structure["token_representative"][tokens], rows),
        "frame_atoms": _complete_frames(_crop_indices(structure["token_frame"][tokens], rows)),
        "ligand_bonds": _ligand_bonds(example, rows),
        "resolution": np.asarray(structure.facts["resolution"], np.float32),
    }


def template_arrays(
    example: Example, tokens: NDArray[np.int64], count: int, draw: Draw
) -> dict[str, NDArray[Any]]:
    """Return the template fields of a crop: up to `count` random templates of each chain.

    From a chain's n templates, k are sampled without replacement, where k is the lesser of `count`
    and a number sampled from 0 to n (AlphaFold 3 supplement, section 2.4).

    Args:
        example: Records of the entry.
        tokens: [token] numbers of the crop's tokens, ascending.
        count: Size of the template axis.
        draw: RNG key of the selection.
    """
    structure = example.structure
    chains, numbers = structure["token_chain"][tokens], structure["token_residue_index"][tokens]
    arrays = {
        "template_mask": np.zeros(count, np.bool_),
        "template_residue_type": np.full((count, len(tokens)), GAP, np.uint8),
        "template_pseudo_beta": np.zeros((count, len(tokens), 3), np.float32),
        "template_pseudo_beta_mask": np.zeros((count, len(tokens)), np.bool_),
        "template_backbone": np.zeros((count, len(tokens), 3, 3), np.float32),
        "template_backbone_mask": np.zeros((count, len(tokens)), np.bool_),
    }
    for chain, templates in example.templates.items():
        chain_tokens = np.flatnonzero(chains == chain)
        if not len(chain_tokens):
            continue
        available = len(templates["residue_type"])
        chain_draw = Draw(draw.seed, f"{draw.stream}/{chain}", draw.step, draw.example)
        selected = chain_draw.permutation(available)[
            : min(count, chain_draw.below(available + 1, available))
        ]
        arrays["template_mask"][: len(selected)] = True
        for slot, template in enumerate(selected):
            for name, column in templates.items():
                arrays[f"template_{name}"][slot, chain_tokens] = column[template][
                    numbers[chain_tokens] - 1
                ]
    return arrays


def _reference_positions(
    structure: Columns, rows: NDArray[np.int64], residue: NDArray[np.int32], draw: Draw
) -> NDArray[np.float32]:
    """Return reference positions: a random conformer of each residue, under a random motion."""
    table = structure["conformer_position"]
    residues, residue_row = np.unique(residue, return_inverse=True)
    choice = Draw(draw.seed, f"{draw.stream}/choice", draw.step, draw.example)
    number = choice.integer_rows(residues.astype(np.int64), 4)[:, 0] % len(table)
    reference = np.asarray(table)[number[residue_row], structure["atom_conformer"][rows]]
    transformed = _transformed(reference, residues.astype(np.int64), residue_row, draw)
    has_reference: NDArray[np.bool_] = structure["atom_reference_known"][rows, None]
    return transformed * has_reference


def _transformed(
    reference: NDArray[np.float32],
    residues: NDArray[np.int64],
    residue_row: NDArray[np.int64],
    draw: Draw,
) -> NDArray[np.float32]:
    """Apply a random rotation and translation to the conformer of each residue.

    Args:
        reference: [atom, 3] conformer positions, ångström.
        residues: [residue] numbers of the residues in the structure.
        residue_row: [atom] index of the atom's residue in `residues`.
        draw: RNG key of the motions.
    """
    numbers = draw.normal_rows(residues, _RIGID).astype(np.float64)
    w, x, y, z = (numbers[:, :4] / np.linalg.norm(numbers[:, :4], axis=1, keepdims=True)).T
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    ).transpose(2, 0, 1)
    rotated = np.einsum("axy,ay->ax", rotation[residue_row], reference.astype(np.float64))
    return (rotated + numbers[residue_row, 4:7]).astype(np.float32)


def _crop_indices(atoms: NDArray[np.int32], rows: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the indices of atoms in the crop, −1 for atoms outside it.

    Args:
        atoms: Rows of the structure, −1 for none.
        rows: Rows of the crop's atoms, ascending.
    """
    if not len(rows):
        return np.full(atoms.shape, -1, np.int32)
    index = np.searchsorted(rows, atoms)
    present = (atoms >= 0) & (rows[np.minimum(index, len(rows) - 1)] == atoms)
    return np.where(present, index, -1).astype(np.int32)


def _complete_frames(corners: NDArray[np.int32]) -> NDArray[np.int32]:
    """Replace frames that lost a corner to the crop by −1."""
    return np.where((corners >= 0).all(axis=1, keepdims=True), corners, -1).astype(np.int32)


def _ligand_bonds(example: Example, rows: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the crop's bonds [bond, 2] between a polymer and a ligand, as indices of its atoms.

    Raises:
        CapacityError: there are more than `LIGAND_BONDS`.
    """
    structure = example.structure
    bonds = structure["bond_atoms"]
    ligand = structure["token_molecule"][structure["atom_token"][bonds]] == LIGAND
    pairs = _crop_indices(bonds[ligand[:, 0] != ligand[:, 1]], rows)
    complete = pairs[(pairs >= 0).all(axis=1)]
    if len(complete) > LIGAND_BONDS:
        raise CapacityError(
            f"{example.entry}: {len(complete)} bonds to ligands in a crop; "
            f"a batch holds {LIGAND_BONDS}"
        )
    return complete
