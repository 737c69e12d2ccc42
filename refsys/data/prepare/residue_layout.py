"""Layout of a residue: its atoms, modelled or not, and their tokens.

Standard residues and nucleotides are one token; everything else is one token per heavy atom.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from refsys.batch import DNA as DNA_MOLECULE
from refsys.batch import LIGAND, PROTEIN
from refsys.batch import RNA as RNA_MOLECULE
from refsys.data.formats.components import Component, component
from refsys.data.prepare.automorphisms import component_automorphisms
from refsys.data.prepare.conformers import CONFORMERS, conformers
from refsys.data.vocabulary import NUCLEOTIDES, PURINES, RESIDUE_TYPES, RNA, UNKNOWN

ABSENT = -1
# Kind of a chain -> molecule type of its residues.
_MOLECULES = {"protein": PROTEIN, "rna": RNA_MOLECULE, "dna": DNA_MOLECULE}
# Atoms of a polymer's residue that only the last, or only the first residue of the chain has.
_LAST_ONLY = {"protein": "OXT", "other": "OXT"}
_FIRST_ONLY = {"rna": "OP3", "dna": "OP3", "other": "OP3"}


@dataclass(frozen=True, slots=True, eq=False)
class ResidueLayout:
    """Atoms and tokens of a residue; indices count its atoms.

    Attributes:
        names: [atom] names.
        elements: [atom] uint8 atomic numbers.
        charges: [atom] int8 formal charges.
        reference: [atom, 3] float32, ångström: the dictionary's coordinates.
        reference_known: [atom] whether the coordinates and the conformers have the atom.
        conformers: [conformer, atom, 3] float32, ångström.
        bonds: [bond, 2] indices of bonded atoms of different tokens.
        residue_type: Residue class of the tokens.
        molecule: Molecule type of the tokens: protein, RNA, DNA or ligand.
        first_atoms: [token] index of the first atom.
        token_elements: [token] uint8 atomic number of an atom token, else 0.
        centers: [token] index of the centre atom, or −1.
        representatives: [token] index of the pseudo-β atom, or −1.
        frames: [token, 3] indices of the frame's atoms, or −1.
        automorphisms: [permutation, atom] relabelings that leave the chemistry unchanged, see
            `component_automorphisms`.
    """

    names: tuple[str, ...]
    elements: NDArray[np.uint8]
    charges: NDArray[np.int8]
    reference: NDArray[np.float32]
    reference_known: NDArray[np.bool_]
    conformers: NDArray[np.float32]
    bonds: NDArray[np.int32]
    residue_type: int
    molecule: int
    first_atoms: NDArray[np.int32]
    token_elements: NDArray[np.uint8]
    centers: NDArray[np.int32]
    representatives: NDArray[np.int32]
    frames: NDArray[np.int32]
    automorphisms: NDArray[np.uint16]


def left_out(definition: Component, kind: str, *, first: bool, last: bool) -> frozenset[str]:
    """Return the atoms that bonds along a chain of this kind replace.

    Args:
        definition: Definition of the component.
        kind: Kind of the chain.
        first: Whether the residue is the first of the chain.
        last: Whether it is the last; False for every residue of a ring.
    """
    ends = [] if last else [_LAST_ONLY.get(kind)]
    ends += [] if first else [_FIRST_ONLY.get(kind)]
    return frozenset(name for name in definition.names if name in ends)


def leaving_atoms(definition: Component, bonded: Collection[str]) -> frozenset[str]:
    """Return the atoms that leave when those named `bonded` are bonded to other residues."""
    if not bonded:
        return frozenset()
    bonded_atoms = [index for index, name in enumerate(definition.names) if name in bonded]
    ends = definition.bonds[np.isin(definition.bonds, bonded_atoms).any(axis=1)].reshape(-1)
    leaving = {definition.names[end] for end in ends if definition.leaving[end]}
    return frozenset(leaving.difference(bonded))


@cache
def layout_of(name: str, kind: str, without: frozenset[str]) -> ResidueLayout:
    """Return the layout of a component that the dictionary defines.

    Args:
        name: Name of the component.
        kind: Kind of the chain that it is in.
        without: Names of its atoms that are absent.
    """
    definition = component(name)
    assert definition is not None, f"{name} has no definition"
    atoms = np.array([atom for atom, n in enumerate(definition.names) if n not in without], int)
    index_of = np.full(len(definition.names), ABSENT)
    index_of[atoms] = np.arange(len(atoms))
    bonds = index_of[definition.bonds]
    return _layout(
        name,
        kind,
        tuple(definition.names[atom] for atom in atoms),
        definition.elements[atoms],
        definition.charges[atoms],
        definition.positions[atoms],
        definition.has_position[atoms],
        conformers(name)[:, atoms],
        bonds[(bonds >= 0).all(axis=1)].astype(np.int32),
    )


def layout_as_modelled(
    name: str,
    kind: str,
    names: tuple[str, ...],
    elements: NDArray[np.uint8],
    charges: NDArray[np.int8],
    component_bonds: Mapping[str, tuple[tuple[str, str], ...]],
) -> ResidueLayout:
    """Return the layout of a component without a definition: the file's atoms, no conformer."""
    index_of = {atom: number for number, atom in enumerate(names)}
    pairs = [
        (index_of[one], index_of[two])
        for one, two in component_bonds.get(name, ())
        if one in index_of and two in index_of
    ]
    bonds = np.array(pairs, np.int32).reshape(-1, 2)
    zeros = np.zeros((len(names), 3), np.float32)
    has_position = np.zeros(len(names), np.bool_)
    no_conformers = np.repeat(zeros[None], CONFORMERS, axis=0)
    return _layout(name, kind, names, elements, charges, zeros, has_position, no_conformers, bonds)


def _layout(
    name: str,
    kind: str,
    names: tuple[str, ...],
    elements: NDArray[np.uint8],
    charges: NDArray[np.int8],
    reference: NDArray[np.float32],
    has_reference: NDArray[np.bool_],
    conformer_positions: NDArray[np.float32],
    bonds: NDArray[np.int32],
) -> ResidueLayout:
    standard = kind != "ligand" and name in RESIDUE_TYPES
    if standard:
        tokens = 1
        residue_type = RESIDUE_TYPES[name]
        centers, representatives, frames = _polymer_atoms(name, names)
        first_atoms, token_elements = np.zeros(1, np.int32), np.zeros(1, np.uint8)
        between = np.empty((0, 2), np.int32)
    elif names:
        tokens = len(names)
        residue_type = UNKNOWN
        centers = representatives = np.arange(tokens, dtype=np.int32)
        frames = _ligand_frames(reference, has_reference)
        first_atoms, token_elements = np.arange(tokens, dtype=np.int32), elements
        between = bonds
    else:
        # A position without atoms and without a standard residue is one unknown token.
        residue_type = UNKNOWN
        centers = representatives = np.array([ABSENT], np.int32)
        frames = np.full((1, 3), ABSENT, np.int32)
        first_atoms, token_elements = np.zeros(1, np.int32), np.zeros(1, np.uint8)
        between = np.empty((0, 2), np.int32)
    return ResidueLayout(
        names=names,
        elements=elements,
        charges=charges,
        reference=reference,
        reference_known=has_reference,
        conformers=conformer_positions,
        bonds=between,
        residue_type=residue_type,
        molecule=_molecule(name, kind),
        first_atoms=first_atoms,
        token_elements=token_elements,
        centers=centers,
        representatives=representatives,
        frames=frames,
        automorphisms=component_automorphisms(elements, bonds, reference, has_reference),
    )


def _molecule(name: str, kind: str) -> int:
    """Return the molecule type: by component for nucleotides, as hybrids have both, else by chain.

    Polymers that are neither protein, RNA nor DNA count as ligands.
    """
    if kind in {"rna", "dna"} and name in NUCLEOTIDES:
        return RNA_MOLECULE if name in {*RNA, "N"} else DNA_MOLECULE
    return _MOLECULES.get(kind, LIGAND)


def _polymer_atoms(
    name: str, names: tuple[str, ...]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Return the centre, pseudo-β and frame atoms of a standard residue."""

    def indices(atoms: tuple[str, ...]) -> list[int]:
        return [names.index(atom) if atom in names else ABSENT for atom in atoms]

    if name in NUCLEOTIDES:
        center, frame = "C1'", ("C1'", "C3'", "C4'")
        representative = "C4" if name in PURINES else "C2"
    else:
        center, frame = "CA", ("N", "CA", "C")
        representative = "CA" if name == "GLY" else "CB"
    corners = indices(frame)
    complete = corners if ABSENT not in corners else [ABSENT] * 3
    return (
        np.array(indices((center,)), np.int32),
        np.array(indices((representative,)), np.int32),
        np.array([complete], np.int32),
    )


def _ligand_frames(
    reference: NDArray[np.float32], has_reference: NDArray[np.bool_]
) -> NDArray[np.int32]:
    """Return frames [atom, 3]: nearest atom, the atom, second nearest; −1 without three atoms."""
    count = len(reference)
    frames = np.full((count, 3), ABSENT, np.int32)
    if has_reference.sum() < 3:
        return frames
    distances = np.linalg.norm(reference[:, None].astype(np.float64) - reference, axis=-1)
    distances[:, ~has_reference] = np.inf
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :2]
    triples = np.stack([nearest[:, 0], np.arange(count), nearest[:, 1]], axis=1)
    frames[has_reference] = triples[has_reference]
    return frames
