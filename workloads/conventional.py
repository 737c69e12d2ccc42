"""Conventional host pipeline, as a contrast: the usual steps, done in the usual way.

Each step parses the text mmCIF with gemmi and the A3M line by line, creates a Python object for
every token and atom, crops, and builds one-hot features in float32 on the host. With a cache, the
parsed data are stored in gzip-compressed arrays, which each step reads.
"""

import gzip
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refsys.data.formats.compressed import inner_suffix, read_bytes
from refsys.data.vocabulary import ELEMENTS, PROTEIN_LETTERS, RESIDUE_TYPES, UNKNOWN
from refsys.errors import DataError
from workloads.errors import UnsupportedError

# Source of a batch: prepared records, in memory or on disk; files that are parsed in each step, or
# a cache of the parsed data.
PREPARED, PARSED, CACHED = PATHS = ("prepared", "conventional", "conventional-cached")
COLD = "prepared-cold"

# Sizes of the released model's one-hot features.
_ALIGNMENT_CLASSES = 32
_ELEMENTS = 128
_LETTERS = 64
_NAME_LENGTH = 4
# Residue classes and deletion counts of each row, and such of each chain.
Rows = tuple[list[list[int]], list[list[int]]]
Alignments = dict[str, Rows]
_GAP = int(PROTEIN_LETTERS[ord("-")])


@dataclass(slots=True)
class Atom:
    """An atom as an object."""

    name: str
    element: int
    charge: int
    position: tuple[float, float, float]


@dataclass(slots=True)
class Token:
    """A token as an object."""

    chain: str
    residue_type: int
    residue_index: int
    atoms: list[Atom] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Files:
    """Files that an entry is parsed from.

    Attributes:
        structure: An mmCIF file.
        alignments: A3M file by chain.
    """

    structure: Path
    alignments: Mapping[str, Path]


def files_of(entry: str) -> Files:
    """Return the fetched files of an entry.

    Raises:
        UnsupportedError: it was not fetched, or has a file that this path does not read.
    """
    from refsys.data.prepare.fetch import packages
    from refsys.home import package_cache

    for package in packages(package_cache()):
        for source in package.sources:
            if source.entry == entry and source.structure.is_cached():
                alignments = {
                    chain: member.cached
                    for chain, member in source.alignments.items()
                    if member.is_cached() and inner_suffix(member.cached) == ".a3m"
                }
                return Files(source.structure.cached, alignments)
    raise UnsupportedError(
        f"the conventional path parses the files of {entry}, which are not fetched; "
        "run 'foldperf fetch'"
    )


def parse_structure(path: Path) -> Any:
    """Return the objects that gemmi parses from a text mmCIF."""
    import gemmi

    try:
        return gemmi.read_structure(str(path))
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: {' '.join(str(error).split())}") from None


def parse_alignment(path: Path) -> Rows:
    """Return residue classes and deletion counts of an A3M, letter by letter."""
    rows: list[list[int]] = []
    deletions: list[list[int]] = []
    for line in read_bytes(path).decode().splitlines():
        if line.startswith(">"):
            rows.append([])
            deletions.append([])
            inserted = 0
            continue
        for letter in line.strip():
            if letter.islower():
                inserted += 1
            else:
                rows[-1].append(int(PROTEIN_LETTERS[ord(letter)]))
                deletions[-1].append(inserted)
                inserted = 0
    return rows, deletions


def tokenize(structure: Any) -> list[Token]:
    """Return a token for each polymer residue, and one for each other atom; as modelled."""
    tokens = []
    structure.setup_entities()
    for chain in structure[0]:
        for residue in chain:
            if residue.is_water():
                continue
            atoms = [
                Atom(atom.name, atom.element.atomic_number, atom.charge, tuple(atom.pos.tolist()))
                for atom in residue
                if atom.element.atomic_number > 1 and atom.altloc in {"\0", "A"}
            ]
            code = RESIDUE_TYPES.get(residue.name)
            number = residue.label_seq or 0
            if code is not None and residue.label_seq:
                tokens.append(Token(residue.subchain, code, number, atoms))
            else:
                tokens += [Token(residue.subchain, UNKNOWN, number, [atom]) for atom in atoms]
    return tokens


def features(
    tokens: list[Token],
    alignments: Alignments,
    size: int,
    rows: int,
    seed: int,
) -> dict[str, Tensor]:
    """Return one-hot float32 features of a contiguous crop and randomly sampled MSA rows."""
    draws = random.Random(seed)
    first = draws.randrange(max(len(tokens) - size, 0) + 1)
    crop = tokens[first : first + size]
    alignment = np.full((rows, size), _GAP, np.int64)
    deletions = np.zeros((rows, size), np.float32)
    for chain, (codes, counts) in alignments.items():
        sampled = [0, *draws.sample(range(1, len(codes)), min(rows, len(codes)) - 1)]
        for position, token in enumerate(crop):
            if token.chain == chain:
                column = token.residue_index - 1
                for row, other in enumerate(sampled):
                    alignment[row, position] = codes[other][column]
                    deletions[row, position] = counts[other][column]
    atoms = [(position, atom) for position, token in enumerate(crop) for atom in token.atoms]
    names = np.zeros((len(atoms), _NAME_LENGTH), np.int64)
    for row, (_, atom) in enumerate(atoms):
        for column, letter in enumerate(atom.name[:_NAME_LENGTH]):
            names[row, column] = max(ord(letter) - 32, 0) % _LETTERS
    types = np.array([token.residue_type for token in crop], np.int64)
    one_hot = _one_hot(alignment, _ALIGNMENT_CLASSES)
    arrays: dict[str, NDArray[Any]] = {
        "msa": one_hot,
        "has_deletion": (deletions > 0).astype(np.float32),
        "deletion_value": np.arctan(deletions / 3.0) * np.float32(2.0 / np.pi),
        "profile": one_hot.mean(axis=0),
        "deletion_mean": deletions.mean(axis=0),
        "restype": _one_hot(types, _ALIGNMENT_CLASSES),
        "residue_index": np.array([token.residue_index for token in crop], np.int64),
        "token_bonds": np.zeros((size, size), np.float32),
        "atom_to_token": np.array([position for position, _ in atoms], np.int64),
        "ref_pos": np.array([atom.position for _, atom in atoms], np.float32),
        "ref_mask": np.ones(len(atoms), np.float32),
        "ref_element": _one_hot(
            np.array([min(atom.element, len(ELEMENTS)) for _, atom in atoms]), _ELEMENTS
        ),
        "ref_charge": np.array([atom.charge for _, atom in atoms], np.float32),
        "ref_atom_name_chars": _one_hot(names, _LETTERS),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _one_hot(codes: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    return np.eye(classes, dtype=np.float32)[codes]


def write_cache(
    path: Path,
    tokens: list[Token],
    alignments: Alignments,
) -> None:
    """Write the parsed data to one gzip-compressed file of arrays."""
    atoms = [(position, atom) for position, token in enumerate(tokens) for atom in token.atoms]
    arrays = [
        np.array([token.chain for token in tokens]),
        np.array([token.residue_type for token in tokens], np.int64),
        np.array([token.residue_index for token in tokens], np.int64),
        np.array([position for position, _ in atoms], np.int64),
        np.array([atom.name for _, atom in atoms]),
        np.array([(atom.element, atom.charge) for _, atom in atoms], np.int64),
        np.array([atom.position for _, atom in atoms], np.float32),
        np.array(list(alignments)),
        *(np.array(part, np.int64) for pair in alignments.values() for part in pair),
    ]
    with gzip.open(path, "wb") as file:
        for array in arrays:
            np.save(file, array, allow_pickle=False)


def read_cache(
    path: Path,
) -> tuple[list[Token], Alignments]:
    """Return the objects that `write_cache` wrote."""
    with gzip.open(path) as file:

        def array() -> Any:
            return np.load(file, allow_pickle=False).tolist()

        chains, types, numbers = array(), array(), array()
        tokens = [Token(*values) for values in zip(chains, types, numbers, strict=True)]
        places, names, whole, positions = array(), array(), array(), array()
        for token, name, (element, charge), position in zip(
            places, names, whole, positions, strict=True
        ):
            tokens[token].atoms.append(Atom(name, element, charge, position))
        return tokens, {chain: (array(), array()) for chain in array()}
