"""Construction of a batch of one example from prepared records: crop first, gather after.

All randomness (the crop, the MSA rows, the templates, the motions of the conformers) comes from
streams keyed by (seed, step, index in the global batch).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refsys.batch import ALPHAFOLD3_FIELDS, ATOM_WINDOW, LIGAND, TRUNK_FIELDS, Batch, Field
from refsys.data.batches.atom_features import LIGAND_BONDS, atom_arrays, template_arrays
from refsys.data.batches.buckets import atom_bucket, row_bucket, token_bucket
from refsys.data.batches.crop import CROPS, crop_tokens
from refsys.data.batches.msa_features import msa_arrays
from refsys.data.batches.sampling import WEIGHTED
from refsys.data.store.store import Example
from refsys.errors import ArgumentError, CapacityError
from refsys.streams import Draw, recycling_iterations

BONDS_PER_TOKEN = 2
# Crops differ in their number of atoms: rounding it up keeps the number of shapes small.
ATOM_STEP = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleSpec:
    """Configuration of batch construction: sizes, sampling, crop and seed.

    Attributes:
        tokens: Token budget of the crop, and size of the token axis.
        alignment_rows: Size of the MSA row axis; the query is row 0.
        batch: Examples in this rank's batch.
        first: Index of the first of them in the global batch, whose other examples are on other
            ranks.
        total: Examples in the global batch; 0 means `batch`.
        sampling: See `refsys.data.batches.sampling.SAMPLINGS`.
        crop: See `refsys.data.batches.crop.CROPS`.
        seed: Seed of all streams.
        whole: Whether to build the full model's fields too: atoms, templates, labels.
        cycles: Recycling iterations, each with MSA rows of its own.
        draw_cycles: Whether to sample the number of iterations of each step from 1 to `cycles`.
        draw_depth: Whether to sample the MSA depth of each iteration.
        atoms: Size of the atom axis; 0 rounds the crop's atoms up to a multiple of `ATOM_STEP`.
        templates: Size of the template axis.
        bucketed: Whether to pad small examples to smaller sizes, see
            `refsys.data.batches.buckets`.
    """

    tokens: int
    alignment_rows: int
    batch: int = 1
    first: int = 0
    total: int = 0
    sampling: str = WEIGHTED
    crop: str = "mixed"
    seed: int = 0
    whole: bool = False
    cycles: int = 1
    draw_cycles: bool = False
    draw_depth: bool = False
    atoms: int = 0
    templates: int = 4
    bucketed: bool = False

    @property
    def indices(self) -> range:
        """Indices of this rank's examples in the global batch."""
        return range(self.first, self.first + self.batch)

    @property
    def fields(self) -> tuple[Field, ...]:
        """Fields of the batches."""
        return ALPHAFOLD3_FIELDS if self.whole else TRUNK_FIELDS

    def share(self, rank: int, ranks: int, context: int = 1) -> "ExampleSpec":
        """Return the specification of one rank's share of this global batch.

        Args:
            rank: The rank, from 0.
            ranks: Number of ranks.
            context: Size of a context-parallel group: consecutive ranks that hold the same
                examples and split their tokens.

        Raises:
            ArgumentError: `context` does not divide `ranks`, or the number of groups does not
                divide the examples.
        """
        groups, remainder = divmod(ranks, context)
        if remainder or not groups or self.batch % groups:
            raise ArgumentError(
                f"{self.batch} examples cannot be split evenly among {ranks} ranks in groups of "
                f"{context}"
            )
        group_batch = self.batch // groups
        first = self.first + rank // context * group_batch
        return replace(self, batch=group_batch, first=first, total=self.total or self.batch)

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ArgumentError: a size is not positive, `atoms` is not a multiple of the attention
                window, or the kind of crop does not exist.
        """
        if self.atoms % ATOM_WINDOW or self.atoms < 0:
            raise ArgumentError(
                f"atoms={self.atoms} is not a multiple of the window, {ATOM_WINDOW}"
            )
        for name in ("tokens", "alignment_rows", "batch", "cycles"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name}={getattr(self, name)} is less than 1")
        if self.crop not in CROPS:
            raise ArgumentError(
                f"crop={self.crop!r} does not exist; choose one of {', '.join(CROPS)}"
            )


def example_batch(
    example: Example, spec: ExampleSpec, step: int, index: int = 0, focus: tuple[int, ...] = ()
) -> Batch:
    """Return the batch of one example, cropped and padded to the sizes of `spec`.

    Args:
        example: Records of the entry.
        spec: Sizes and the kind of crop.
        step: Training step (RNG key).
        index: Index in the global batch (RNG key).
        focus: See `crop_tokens`.

    Raises:
        CapacityError: the crop has more atoms or bonds than a batch can hold.
        DataError: a record is damaged.
    """
    construction = BatchConstruction(example, spec, step, index, focus)
    for stage in construction.stages:
        construction.run(stage)
    assert construction.batch is not None, "the last stage sets it"
    return construction.batch


class BatchConstruction:
    """Construction of the batch of one example, stage by stage.

    Attributes:
        stages: Names of the stages, in order.
        batch: The batch; None until the last stage has run.
    """

    def __init__(
        self,
        example: Example,
        spec: ExampleSpec,
        step: int,
        index: int = 0,
        focus: tuple[int, ...] = (),
    ) -> None:
        self._example, self._spec = example, spec
        self._step, self._index, self._focus = step, index, focus
        self._crop_tokens: NDArray[np.int64] = np.empty(0, np.int64)
        # Size of the token axis.
        self._size = spec.tokens
        self._arrays: dict[str, NDArray[Any]] = {}
        self._run_stage: dict[str, Callable[[], None]] = {
            "crop": self._crop,
            "tokens": self._tokens,
            "alignment": self._alignment,
            "atoms": self._atoms,
            "templates": self._templates,
            "pad": self._pad,
        }
        self.stages = stages_of(spec)
        self.batch: Batch | None = None

    def run(self, stage: str) -> None:
        """Run a stage.

        Raises:
            CapacityError: the crop has more atoms or bonds than a batch can hold.
            DataError: a record is damaged.
        """
        self._run_stage[stage]()

    def _crop(self) -> None:
        self._crop_tokens = crop_of(self._example, self._spec, self._step, self._index, self._focus)
        if self._spec.bucketed:
            self._size = token_bucket(len(self._crop_tokens), self._spec.tokens)

    def _tokens(self) -> None:
        structure, tokens = self._example.structure, self._crop_tokens
        columns = {
            name: structure[f"token_{name}"][tokens]
            for name in ("residue_type", "residue_index", "chain", "entity", "symmetry", "element")
        }
        representative = structure["token_representative"][tokens]
        atom = np.maximum(representative, 0)
        resolved = (representative >= 0) & structure["atom_resolved"][atom]
        self._arrays |= {
            "example": np.asarray(self._index, np.int64),
            "token_mask": np.ones(len(tokens), np.bool_),
            "residue_type": columns["residue_type"],
            "residue_index": columns["residue_index"],
            "token_index": tokens.astype(np.int32),
            "asym_id": columns["chain"],
            "entity_id": columns["entity"],
            "sym_id": columns["symmetry"],
            "element": columns["element"],
            "bonds": _token_bonds(self._example, tokens, self._size * BONDS_PER_TOKEN),
            "pseudo_beta": structure["atom_position"][atom] * resolved[:, None],
            "pseudo_beta_mask": resolved,
        }

    def _alignment(self) -> None:
        spec = self._spec
        cycles = spec.cycles
        if spec.draw_cycles:
            cycles = recycling_iterations(spec.seed, spec.cycles, self._step)
        self._arrays |= msa_arrays(
            self._example,
            self._crop_tokens,
            spec.alignment_rows,
            self._draw("rows"),
            cycles,
            draw_depth=spec.draw_depth,
        )

    def _atoms(self) -> None:
        self._arrays |= atom_arrays(self._example, self._crop_tokens, self._draw("conformer"))

    def _templates(self) -> None:
        count, draw = self._spec.templates, self._draw("templates")
        self._arrays |= template_arrays(self._example, self._crop_tokens, count, draw)

    def _pad(self) -> None:
        spec = self._spec
        tokens, rows = self._size, spec.alignment_rows
        if spec.bucketed:
            rows = row_bucket(self._arrays["alignment"].shape[1], rows)
        sizes = {"token": tokens, "alignment_row": rows, "bond": tokens * BONDS_PER_TOKEN}
        if spec.whole:
            atoms = _atom_axis(self._example, spec, len(self._arrays["atom_mask"]), tokens)
            sizes |= {"atom": atoms, "ligand_bond": LIGAND_BONDS}
        dtypes = {field.name: field.dtype for field in spec.fields}
        tensors: dict[str, Tensor] = {
            name: torch.from_numpy(np.array(array)[None]).to(dtypes[name])
            for name, array in self._arrays.items()
        }
        self.batch = Batch(tensors, spec.fields).padded(**sizes)

    def _draw(self, stream: str) -> Draw:
        return Draw(self._spec.seed, stream, self._step, self._index)


def stages_of(spec: ExampleSpec) -> tuple[str, ...]:
    """Return the stages of batch construction, in order."""
    whole = ("atoms", "templates") if spec.whole else ()
    return ("crop", "tokens", "alignment", *whole, "pad")


def crop_of(
    example: Example, spec: ExampleSpec, step: int, index: int, focus: tuple[int, ...] = ()
) -> NDArray[np.int64]:
    """Return the tokens of an example's crop at one index of a step's batch, ascending."""
    draw = Draw(spec.seed, "crop", step, index)
    return crop_tokens(spec.crop, example.structure, spec.tokens, draw, focus)


def _atom_axis(example: Example, spec: ExampleSpec, atoms: int, tokens: int) -> int:
    if spec.bucketed and not spec.atoms:
        return -(-atom_bucket(atoms, tokens) // ATOM_WINDOW) * ATOM_WINDOW
    if not spec.atoms:
        return max(1, -(-atoms // ATOM_STEP)) * ATOM_STEP
    if atoms > spec.atoms:
        raise CapacityError(
            f"{example.entry}: {atoms} atoms in a crop of {spec.tokens} tokens; "
            f"a batch holds {spec.atoms}"
        )
    return spec.atoms


def _token_bonds(example: Example, tokens: NDArray[np.int64], capacity: int) -> NDArray[np.int32]:
    """Return pairs of crop tokens that are bonded inside an atom-tokenized residue or to a ligand.

    Bonds between residues of polymers, such as the peptide bonds of modified ones, are left out
    (AlphaFold 3 supplement, section 2.8).
    """
    structure = example.structure
    crop_index = np.full(example.tokens, -1, np.int32)
    crop_index[tokens] = np.arange(len(tokens), dtype=np.int32)
    bond_tokens = structure["atom_token"][structure["bond_atoms"]]
    residues = structure["token_residue"][bond_tokens]
    selected = residues[:, 0] == residues[:, 1]
    selected |= (structure["token_molecule"][bond_tokens] == LIGAND).any(axis=1)
    selected &= (structure["token_element"][bond_tokens] > 0).any(axis=1)
    bond_tokens = bond_tokens[selected & (bond_tokens[:, 0] != bond_tokens[:, 1])]
    pairs = crop_index[bond_tokens]
    pairs = np.unique(np.sort(pairs[(pairs >= 0).all(axis=1)], axis=1), axis=0)
    if len(pairs) > capacity:
        raise CapacityError(
            f"{example.entry}: {len(pairs)} bonds in a crop of {len(tokens)} tokens; "
            f"a batch holds {capacity}"
        )
    return pairs.astype(np.int32).reshape(-1, 2)
