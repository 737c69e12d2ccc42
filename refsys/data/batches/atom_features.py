"""Atoms, labels and templates of a crop: what the whole model reads beside the trunk's fields."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refsys.batch import LIGAND
from refsys.data.store.columns import Columns
from refsys.data.store.store import Example
from refsys.data.vocabulary import GAP
from refsys.errors import CapacityError
from refsys.streams import Draw

# Room for bonds between polymers and ligands in a batch.
LIGAND_BONDS = 64
_LETTERS = 4
# A conformer's draw: four numbers make a rotation, three a shift.
_RIGID = 8


def crop_atoms(example: Example, kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of the atoms of the tokens that are kept, ascending."""
    first = example.structure["token_first_atom"].astype(np.int64)
    counts = first[kept + 1] - first[kept]
    before = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.repeat(first[kept] - before, counts) + np.arange(counts.sum())


def atom_arrays(example: Example, kept: NDArray[np.int64], draw: Draw) -> dict[str, NDArray[Any]]:
    """The atom and label fields of a crop, without padding.

    Args:
        example: Its records.
        kept: The crop's tokens, ascending.
        draw: The key of the conformers' motions.

    Raises:
        CapacityError: more bonds to ligands than a batch holds.
    """
    structure = example.structure
    rows = crop_atoms(example, kept)
    first = structure["token_first_atom"].astype(np.int64)
    token = np.repeat(np.arange(len(kept), dtype=np.int32), first[kept + 1] - first[kept])
    residue = structure["token_residue"][kept][token]
    names = structure["atom_name"][rows]
    letters = names.view(np.uint8).reshape(len(rows), _LETTERS)
    return {
        "atom_mask": np.ones(len(rows), np.bool_),
        "atom_token": token,
        "reference_position": _references(structure, rows, residue, draw),
        "reference_mask": structure["atom_reference_known"][rows],
        "reference_element": structure["atom_element"][rows],
        "reference_charge": structure["atom_charge"][rows],
        "reference_name": np.maximum(letters, 32) - 32,
        "reference_space": residue,
        "atom_position": structure["atom_position"][rows],
        "atom_resolved": structure["atom_resolved"][rows],
        "atom_slot": (rows - first[kept][token]).astype(np.uint8),
        "molecule": structure["token_molecule"][kept],
        "center_atom": _places(structure["token_center"][kept], rows),
        "representative_atom": _places(structure["token_representative"][kept], rows),
        "frame_atoms": _whole(_places(structure["token_frame"][kept], rows)),
        "ligand_bonds": _ligand_bonds(example, rows),
        "resolution": np.asarray(structure.facts["resolution"], np.float32),
    }


def template_arrays(
    example: Example, kept: NDArray[np.int64], count: int, draw: Draw
) -> dict[str, NDArray[Any]]:
    """The template fields of a crop: up to `count` templates of each chain, drawn at random.

    Of a chain's n templates, k are taken without replacement, k the lesser of `count` and a number
    drawn from 0 to n (AlphaFold 3 supplement, section 2.4).
    """
    structure = example.structure
    chains, numbers = structure["token_chain"][kept], structure["token_residue_index"][kept]
    arrays = {
        "template_mask": np.zeros(count, np.bool_),
        "template_residue_type": np.full((count, len(kept)), GAP, np.uint8),
        "template_pseudo_beta": np.zeros((count, len(kept), 3), np.float32),
        "template_pseudo_beta_mask": np.zeros((count, len(kept)), np.bool_),
        "template_backbone": np.zeros((count, len(kept), 3, 3), np.float32),
        "template_backbone_mask": np.zeros((count, len(kept)), np.bool_),
    }
    for chain, templates in example.templates.items():
        here = np.flatnonzero(chains == chain)
        if not len(here):
            continue
        known = len(templates["residue_type"])
        own = Draw(draw.seed, f"{draw.stream}/{chain}", draw.step, draw.example)
        taken = own.permutation(known)[: min(count, own.below(known + 1, known))]
        arrays["template_mask"][: len(taken)] = True
        for slot, template in enumerate(taken):
            for name, column in templates.items():
                arrays[f"template_{name}"][slot, here] = column[template][numbers[here] - 1]
    return arrays


def _references(
    structure: Columns, rows: NDArray[np.int64], residue: NDArray[np.int32], draw: Draw
) -> NDArray[np.float32]:
    """A conformer of each residue, drawn for it alone, turned and shifted at random."""
    table = structure["conformer_position"]
    residues, own = np.unique(residue, return_inverse=True)
    choice = Draw(draw.seed, f"{draw.stream}/choice", draw.step, draw.example)
    number = choice.integer_rows(residues.astype(np.int64), 4)[:, 0] % len(table)
    reference = np.asarray(table)[number[own], structure["atom_conformer"][rows]]
    moved = _moved(reference, residues.astype(np.int64), own, draw)
    known: NDArray[np.bool_] = structure["atom_reference_known"][rows, None]
    return moved * known


def _moved(
    reference: NDArray[np.float32], residues: NDArray[np.int64], own: NDArray[np.int64], draw: Draw
) -> NDArray[np.float32]:
    """Conformers turned and shifted at random, each residue by itself.

    Args:
        reference: [atom, 3].
        residues: Numbers of residues in the structure.
        own: [atom] the place of its residue among them.
        draw: What for.
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
    moved = np.einsum("axy,ay->ax", rotation[own], reference.astype(np.float64))
    return (moved + numbers[own, 4:7]).astype(np.float32)


def _places(wanted: NDArray[np.int32], rows: NDArray[np.int64]) -> NDArray[np.int32]:
    """Where rows are in the crop, −1 if they are not."""
    if not len(rows):
        return np.full(wanted.shape, -1, np.int32)
    place = np.searchsorted(rows, wanted)
    there = (wanted >= 0) & (rows[np.minimum(place, len(rows) - 1)] == wanted)
    return np.where(there, place, -1).astype(np.int32)


def _whole(corners: NDArray[np.int32]) -> NDArray[np.int32]:
    """Frames of which a corner was cropped away are none."""
    return np.where((corners >= 0).all(axis=1, keepdims=True), corners, -1).astype(np.int32)


def _ligand_bonds(example: Example, rows: NDArray[np.int64]) -> NDArray[np.int32]:
    """Bonds of the crop between a polymer and a ligand."""
    structure = example.structure
    bonds = structure["bond_atoms"]
    ligand = structure["token_molecule"][structure["atom_token"][bonds]] == LIGAND
    places = _places(bonds[ligand[:, 0] != ligand[:, 1]], rows)
    kept = places[(places >= 0).all(axis=1)]
    if len(kept) > LIGAND_BONDS:
        raise CapacityError(
            f"{example.entry}: {len(kept)} bonds to ligands in a crop; a batch holds {LIGAND_BONDS}"
        )
    return kept
