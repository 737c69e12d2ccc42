"""From prepared records to a batch of one example: crop first, gather after.

Everything random is drawn from streams keyed by (seed, step, place in the batch): its crop, its
alignment rows, its templates, the motions of its conformers.
"""

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
from refsys.data.batches.msa_features import alignment_arrays
from refsys.data.batches.sampling import WEIGHTED
from refsys.data.store.store import Example
from refsys.errors import ArgumentError, CapacityError
from refsys.streams import Draw, recycling_iterations

BONDS_PER_TOKEN = 2
# Crops differ in their atoms: sizes in steps keep the number of different shapes small.
ATOM_STEP = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleSpec:
    """What decides a batch beside the example itself.

    Attributes:
        tokens: Crop, and size of the token axis.
        alignment_rows: Size of the alignment axis; the query is row 0.
        batch: Examples in a batch.
        first: Place of the first of them in the whole batch, of which other ranks hold the rest.
        total: Examples in the whole batch; 0 is `batch`.
        sampling: See `refsys.data.batches.sampling.SAMPLINGS`.
        crop: See `refsys.data.batches.crop.CROPS`.
        seed: Seed of all streams.
        whole: Whether the whole model's fields are wanted: atoms, templates, labels.
        cycles: Recycling iterations, each with alignment rows of its own.
        draw_cycles: Whether each step draws its own number of them, from 1 to `cycles`.
        draw_depth: Whether each of them draws how many alignment rows it has.
        atoms: Size of the atom axis; 0 is what the crop has, in steps of `ATOM_STEP`.
        templates: Size of the template axis.
        bucketed: Whether a batch of small examples is smaller, see `refsys.data.batches.buckets`.
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
    def places(self) -> range:
        """The places of its examples in the whole batch."""
        return range(self.first, self.first + self.batch)

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields of its batches."""
        return ALPHAFOLD3_FIELDS if self.whole else TRUNK_FIELDS

    def share(self, rank: int, ranks: int, context: int = 1) -> "ExampleSpec":
        """What a rank makes of this, the whole batch.

        Args:
            rank: Which, from 0.
            ranks: How many there are.
            context: Consecutive ranks that hold the same examples, whose tokens they share out.

        Raises:
            ArgumentError: the ranks are not whole groups, or the examples are not as many for each
                of the groups.
        """
        groups, rest = divmod(ranks, context)
        if rest or not groups or self.batch % groups:
            raise ArgumentError(
                f"{self.batch} examples cannot be shared out evenly among {ranks} ranks in groups "
                f"of {context}"
            )
        each = self.batch // groups
        first = self.first + rank // context * each
        return replace(self, batch=each, first=first, total=self.total or self.batch)

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ArgumentError: a size is not positive, the atoms do not fill their windows, or the kind
                of crop does not exist.
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
    example: Example, spec: ExampleSpec, step: int, place: int = 0, focus: tuple[int, ...] = ()
) -> Batch:
    """One example, cropped and padded to the spec's sizes, as it is drawn for a place in a batch.

    Args:
        example: Which.
        spec: Sizes and the kind of crop.
        step: A key of the draws.
        place: Another.
        focus: See `crop_tokens`.

    Raises:
        CapacityError: the crop has more atoms or bonds than a batch can hold.
        DataError: a record is damaged.
    """
    making = Making(example, spec, step, place, focus)
    for stage in making.stages:
        making.run(stage)
    assert making.batch is not None, "the last stage makes it"
    return making.batch


class Making:
    """A batch of one example in the making, stage by stage.

    Attributes:
        stages: Names of the stages, in order.
        batch: The batch, once the last of them has run.
    """

    def __init__(
        self,
        example: Example,
        spec: ExampleSpec,
        step: int,
        place: int = 0,
        focus: tuple[int, ...] = (),
    ) -> None:
        self._example, self._spec = example, spec
        self._step, self._place, self._focus = step, place, focus
        self._kept: NDArray[np.int64] = np.empty(0, np.int64)
        # Of the token axis.
        self._size = spec.tokens
        self._arrays: dict[str, NDArray[Any]] = {}
        self.stages = stages_of(spec)
        self.batch: Batch | None = None

    def run(self, stage: str) -> None:
        """Runs a stage.

        Raises:
            CapacityError: the crop has more atoms or bonds than a batch can hold.
            DataError: a record is damaged.
        """
        getattr(self, f"_{stage}")()

    def _crop(self) -> None:
        self._kept = crop_of(self._example, self._spec, self._step, self._place, self._focus)
        if self._spec.bucketed:
            self._size = token_bucket(len(self._kept), self._spec.tokens)

    def _tokens(self) -> None:
        structure, kept = self._example.structure, self._kept
        columns = {
            name: structure[f"token_{name}"][kept]
            for name in ("residue_type", "residue_index", "chain", "entity", "symmetry", "element")
        }
        representative = structure["token_representative"][kept]
        there = np.maximum(representative, 0)
        seen = (representative >= 0) & structure["atom_resolved"][there]
        self._arrays |= {
            "example": np.asarray(self._place, np.int64),
            "token_mask": np.ones(len(kept), np.bool_),
            "residue_type": columns["residue_type"],
            "residue_index": columns["residue_index"],
            "token_index": kept.astype(np.int32),
            "asym_id": columns["chain"],
            "entity_id": columns["entity"],
            "sym_id": columns["symmetry"],
            "element": columns["element"],
            "bonds": _token_bonds(self._example, kept, self._size * BONDS_PER_TOKEN),
            "pseudo_beta": structure["atom_position"][there] * seen[:, None],
            "pseudo_beta_mask": seen,
        }

    def _alignment(self) -> None:
        spec = self._spec
        cycles = spec.cycles
        if spec.draw_cycles:
            cycles = recycling_iterations(spec.seed, spec.cycles, self._step)
        self._arrays |= alignment_arrays(
            self._example,
            self._kept,
            spec.alignment_rows,
            self._draw("rows"),
            cycles,
            draw_depth=spec.draw_depth,
        )

    def _atoms(self) -> None:
        self._arrays |= atom_arrays(self._example, self._kept, self._draw("conformer"))

    def _templates(self) -> None:
        count, draw = self._spec.templates, self._draw("templates")
        self._arrays |= template_arrays(self._example, self._kept, count, draw)

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
        return Draw(self._spec.seed, stream, self._step, self._place)


def stages_of(spec: ExampleSpec) -> tuple[str, ...]:
    """The stages of making a batch, in order."""
    whole = ("atoms", "templates") if spec.whole else ()
    return ("crop", "tokens", "alignment", *whole, "pad")


def crop_of(
    example: Example, spec: ExampleSpec, step: int, place: int, focus: tuple[int, ...] = ()
) -> NDArray[np.int64]:
    """The tokens that a place in a batch holds of an example, ascending."""
    draw = Draw(spec.seed, "crop", step, place)
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


def _token_bonds(example: Example, kept: NDArray[np.int64], capacity: int) -> NDArray[np.int32]:
    """Pairs of crop tokens with a bond inside an atom-tokenized residue, or one to a ligand.

    Bonds between residues of polymers, such as the peptide bonds of modified ones, are left out
    (AlphaFold 3 supplement, section 2.8).
    """
    structure = example.structure
    place = np.full(example.tokens, -1, np.int32)
    place[kept] = np.arange(len(kept), dtype=np.int32)
    tokens = structure["atom_token"][structure["bond_atoms"]]
    residues = structure["token_residue"][tokens]
    wanted = residues[:, 0] == residues[:, 1]
    wanted |= (structure["token_molecule"][tokens] == LIGAND).any(axis=1)
    wanted &= (structure["token_element"][tokens] > 0).any(axis=1)
    tokens = tokens[wanted & (tokens[:, 0] != tokens[:, 1])]
    pairs = place[tokens]
    pairs = np.unique(np.sort(pairs[(pairs >= 0).all(axis=1)], axis=1), axis=0)
    if len(pairs) > capacity:
        raise CapacityError(
            f"{example.entry}: {len(pairs)} bonds in a crop of {len(kept)} tokens; "
            f"a batch holds {capacity}"
        )
    return pairs.astype(np.int32).reshape(-1, 2)
