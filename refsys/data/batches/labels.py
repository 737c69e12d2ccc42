"""Labels of a crop, permuted among equivalent chains and atoms."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refsys.batch import Batch
from refsys.data.batches.label_permutation import Symmetries, permuted_rows
from refsys.data.store.columns import Columns


def symmetries_of(structure: Columns) -> Symmetries:
    """Return the labels of a structure and the permutations that may be applied to them.

    Chains are copies of one another if they are of one entity and have the same residues and atoms.
    """
    chains = structure.facts["chains"]
    residue_chain = structure["residue_chain"]
    first_atom = structure["residue_first_atom"]
    chain_of_atom = np.repeat(residue_chain, np.diff(first_atom))
    center = np.zeros(len(chain_of_atom), np.bool_)
    token_center = structure["token_center"]
    center[token_center[token_center >= 0]] = True
    return Symmetries(
        chain_of_atom=chain_of_atom,
        residue_of_atom=np.repeat(
            np.arange(len(residue_chain), dtype=np.int32), np.diff(first_atom)
        ),
        chain_group=_chain_groups(structure),
        position=structure["atom_position"],
        resolved=structure["atom_resolved"],
        center=center,
        polymer=np.array([chain["kind"] != "ligand" for chain in chains]),
        residue_symmetry=structure["residue_symmetry"],
        symmetries=_symmetry_tables(structure),
    )


def _chain_groups(structure: Columns) -> NDArray[np.int32]:
    """Return a group number for each chain, equal for chains of one entity with the same atoms."""
    groups: dict[tuple[str, bytes, bytes], int] = {}
    chain_of_residue = structure["residue_chain"]
    starts = structure["residue_first_atom"]
    numbers = []
    for number, chain in enumerate(structure.facts["chains"]):
        residues = np.flatnonzero(chain_of_residue == number)
        atoms = slice(starts[residues[0]], starts[residues[-1] + 1]) if len(residues) else slice(0)
        components = structure["residue_component"][residues].tobytes()
        key = (str(chain["entity"]), components, structure["atom_name"][atoms].tobytes())
        numbers.append(groups.setdefault(key, len(groups)))
    return np.array(numbers, np.int32)


def _symmetry_tables(structure: Columns) -> tuple[NDArray[np.uint16], ...]:
    sizes = structure["symmetry_sizes"].astype(np.int64)
    ends = np.cumsum(sizes.prod(axis=1))
    parts = np.split(structure["symmetry_places"], ends[:-1]) if len(sizes) else []
    return tuple(part.reshape(tuple(size)) for part, size in zip(parts, sizes, strict=True))


def with_labels_of(
    batch: Batch,
    index: int,
    rows: NDArray[np.int64],
    predicted_A3: NDArray[np.float32],
    symmetries: Symmetries,
) -> dict[str, Tensor]:
    """Return the label fields of one example of a batch after the best permutation.

    Args:
        batch: The batch, on the host.
        index: Index of the example in it.
        rows: The crop's atoms as rows of the structure, without padding.
        predicted_A3: Their predicted positions, ångström.
        symmetries: Labels and permutations of the structure.
    """
    label_rows = permuted_rows(predicted_A3[: len(rows)], rows, symmetries)
    position = batch["atom_position"][index].clone()
    resolved = batch["atom_resolved"][index].clone()
    position[: len(rows)] = torch.from_numpy(np.array(symmetries.position[label_rows]))
    resolved[: len(rows)] = torch.from_numpy(np.array(symmetries.resolved[label_rows]))
    atom = batch["representative_atom"][index].long()
    has_representative = (atom >= 0) & resolved[atom.clamp(min=0)]
    return {
        "atom_position": position,
        "atom_resolved": resolved,
        "pseudo_beta": position[atom.clamp(min=0)] * has_representative.unsqueeze(-1),
        "pseudo_beta_mask": has_representative,
    }
