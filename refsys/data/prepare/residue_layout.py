"""What a residue consists of: its atoms, modelled or not, and the tokens that they make.

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
# Kind of a chain -> molecule of its residues.
_MOLECULES = {"protein": PROTEIN, "rna": RNA_MOLECULE, "dna": DNA_MOLECULE}
# What is left out of a polymer's residue unless it ends the chain.
_LAST_ONLY = {"protein": "OXT", "other": "OXT"}
_FIRST_ONLY = {"rna": "OP3", "dna": "OP3", "other": "OP3"}


@dataclass(frozen=True, slots=True, eq=False)
class ResidueLayout:
    """Atoms and tokens of a residue; places are those of the atoms here.

    Attributes:
        names: Atom names.
        elements: [atom] uint8.
        charges: [atom] int8.
        reference: [atom, 3] float32, ångström: the dictionary's coordinates.
        reference_known: [atom] whether they, and the conformers, have the atom.
        conformers: [conformer, atom, 3] float32, ångström.
        bonds: [bond, 2] places, of atoms of different tokens alone.
        residue_type: Class of its tokens.
        molecule: Of its tokens: protein, RNA, DNA or ligand.
        first_atoms: [token] the place of each token's first atom.
        token_elements: [token] uint8: the element of an atom token, else 0.
        centers: [token] place of the centre atom, or −1.
        representatives: [token] place of the pseudo-β atom, or −1.
        frames: [token, 3] places of the frame's atoms, or −1.
        automorphisms: [permutation, atom] the relabelings that chemistry cannot tell apart.
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
    """Return the atoms that bonds along a chain of this kind leave no room for.

    Args:
        definition: The component.
        kind: Kind of the chain.
        first: Whether the residue starts the chain.
        last: Whether it ends it, which no residue of a ring does.
    """
    ends = [] if last else [_LAST_ONLY.get(kind)]
    ends += [] if first else [_FIRST_ONLY.get(kind)]
    return frozenset(name for name in definition.names if name in ends)


def leaving_atoms(definition: Component, bonded: Collection[str]) -> frozenset[str]:
    """The atoms that leave when those named `bonded` are joined to other residues."""
    places = [place for place, name in enumerate(definition.names) if name in bonded]
    ends = definition.bonds[np.isin(definition.bonds, places).any(axis=1)].reshape(-1)
    leaving = {definition.names[end] for end in ends if definition.leaving[end]}
    return frozenset(leaving.difference(bonded))


@cache
def layout_of(name: str, kind: str, without: frozenset[str]) -> ResidueLayout:
    """The layout of a component that the dictionary defines.

    Args:
        name: The component.
        kind: Kind of the chain that it is in.
        without: Its atoms that are not there.
    """
    definition = component(name)
    assert definition is not None, f"{name} has no definition"
    kept = np.array([place for place, n in enumerate(definition.names) if n not in without], int)
    place_of = np.full(len(definition.names), ABSENT)
    place_of[kept] = np.arange(len(kept))
    bonds = place_of[definition.bonds]
    return _layout(
        name,
        kind,
        tuple(definition.names[place] for place in kept),
        definition.elements[kept],
        definition.charges[kept],
        definition.positions[kept],
        definition.known[kept],
        conformers(name)[:, kept],
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
    """The layout of a component without a definition: what the file has of it, no conformer."""
    place = {atom: number for number, atom in enumerate(names)}
    pairs = [
        (place[one], place[two])
        for one, two in component_bonds.get(name, ())
        if one in place and two in place
    ]
    bonds = np.array(pairs, np.int32).reshape(-1, 2)
    unknown = np.zeros((len(names), 3), np.float32)
    known = np.zeros(len(names), np.bool_)
    several = np.repeat(unknown[None], CONFORMERS, axis=0)
    return _layout(name, kind, names, elements, charges, unknown, known, several, bonds)


def _layout(
    name: str,
    kind: str,
    names: tuple[str, ...],
    elements: NDArray[np.uint8],
    charges: NDArray[np.int8],
    reference: NDArray[np.float32],
    known: NDArray[np.bool_],
    several: NDArray[np.float32],
    bonds: NDArray[np.int32],
) -> ResidueLayout:
    standard = kind != "ligand" and name in RESIDUE_TYPES
    if standard:
        tokens = 1
        residue_type = RESIDUE_TYPES[name]
        centers, representatives, frames = _polymer_places(name, names)
        first_atoms, token_elements = np.zeros(1, np.int32), np.zeros(1, np.uint8)
        between = np.empty((0, 2), np.int32)
    elif names:
        tokens = len(names)
        residue_type = UNKNOWN
        centers = representatives = np.arange(tokens, dtype=np.int32)
        frames = _ligand_frames(reference, known)
        first_atoms, token_elements = np.arange(tokens, dtype=np.int32), elements
        between = bonds
    else:
        # A position of which nothing is known is one unknown token.
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
        reference_known=known,
        conformers=several,
        bonds=between,
        residue_type=residue_type,
        molecule=_molecule(name, kind),
        first_atoms=first_atoms,
        token_elements=token_elements,
        centers=centers,
        representatives=representatives,
        frames=frames,
        automorphisms=component_automorphisms(elements, bonds, reference, known),
    )


def _molecule(name: str, kind: str) -> int:
    """Of a hybrid's nucleotides each is what it is; other polymers count as ligands."""
    if kind in {"rna", "dna"} and name in NUCLEOTIDES:
        return RNA_MOLECULE if name in {*RNA, "N"} else DNA_MOLECULE
    return _MOLECULES.get(kind, LIGAND)


def _polymer_places(
    name: str, names: tuple[str, ...]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Centre, pseudo-β and frame of a standard residue."""

    def places(wanted: tuple[str, ...]) -> list[int]:
        return [names.index(atom) if atom in names else ABSENT for atom in wanted]

    if name in NUCLEOTIDES:
        center, frame = "C1'", ("C1'", "C3'", "C4'")
        representative = "C4" if name in PURINES else "C2"
    else:
        center, frame = "CA", ("N", "CA", "C")
        representative = "CA" if name == "GLY" else "CB"
    corners = places(frame)
    whole = corners if ABSENT not in corners else [ABSENT] * 3
    return (
        np.array(places((center,)), np.int32),
        np.array(places((representative,)), np.int32),
        np.array([whole], np.int32),
    )


def _ligand_frames(reference: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.int32]:
    """[atom, 3]: the nearest atom, the atom itself, the second nearest; −1 without three atoms."""
    count = len(reference)
    frames = np.full((count, 3), ABSENT, np.int32)
    if known.sum() < 3:
        return frames
    distances = np.linalg.norm(reference[:, None].astype(np.float64) - reference, axis=-1)
    distances[:, ~known] = np.inf
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :2]
    whole = np.stack([nearest[:, 0], np.arange(count), nearest[:, 1]], axis=1)
    frames[known] = whole[known]
    return frames
